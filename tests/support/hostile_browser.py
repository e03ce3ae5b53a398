"""Pages in a real browser, all at once: what a script would have done there."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

BROWSER = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--virtual-time-budget=60000", "--dump-dom",
)  # fmt: skip

# Runs inside each page, before it, and tells the frame around it what it sees.
PROBE = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => errors.push("blocked: " + event.blockedURI));
const look = () => {
  if (!document.documentElement.dataset.drawn) return void setTimeout(look, 50);
  const acting = [...document.querySelectorAll("*")].filter((each) => [...each.attributes].some((one) =>
    one.name.startsWith("on") || /^\\s*javascript:/i.test(one.value) && ["href", "src"].includes(one.name)));
  const drawn = document.querySelectorAll(".plot .main-svg").length;
  const foreign = document.querySelectorAll("iframe, img[src], object, embed, .plot a[*|href]").length;
  parent.postMessage({ page: PAGE, acting: acting.length, foreign: foreign, drawn: drawn, errors: errors,
    owned: document.title === "owned" || document.title === "1" }, "*");
};
look();
</script></head>"""
FRAMES = """<!doctype html><body>%s<script>
const seen = {};
addEventListener("message", (event) => {
  seen[event.data.page] = event.data;
  document.body.dataset.seen = JSON.stringify(seen);
});
</script>"""


def seen_in_a_browser(folder: Path, pages: Sequence[str]) -> list[str | None]:
    """What is wrong with each page in a browser; None: it draws its figures, and nothing in it acts.

    Args:
        folder: for the pages.
        pages: their text.
    """
    for number, page in enumerate(pages):
        probe = PROBE.replace("PAGE", str(number))
        (folder / f"page-{number}.html").write_text(page.replace("</head>", probe, 1))
    frames = "".join(
        f'<iframe src="page-{number}.html" width="900" height="600"></iframe>' for number in range(len(pages))
    )
    (folder / "frames.html").write_text(FRAMES % frames)
    done = subprocess.run(
        [str(BROWSER), *FLAGS, f"--user-data-dir={folder / 'profile'}", (folder / "frames.html").as_uri()],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    told = re.search(r'data-seen="([^"]*)"', done.stdout)
    seen = json.loads(html.unescape(told[1])) if told else {}
    return [_wrong(seen.get(str(number))) for number in range(len(pages))]


def _wrong(seen: dict[str, object] | None) -> str | None:
    if seen is None:
        return "the page was not drawn"
    acts = {key: seen[key] for key in ("acting", "foreign", "errors", "owned") if seen[key]}
    if acts:
        return f"in a browser: {acts}"
    return None if seen["drawn"] else "no figure was drawn"
