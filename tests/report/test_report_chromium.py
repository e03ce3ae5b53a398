"""The page in a real browser: every figure drawn, nothing wider than the screen, no error, light and dark."""

import html
import json
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from leapverify.report import build_report
from leapverify.report.study.page import SHORT

BROWSER = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome on this machine"),
]

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=15000",
]

# Runs inside the page and tells the frame around it what it sees; a window below 500 px is not to be had headless.
PROBE = """<script>
const errors = [];
window.addEventListener("error", (event) => errors.push(String(event.message)));
document.addEventListener("securitypolicyviolation", (event) => errors.push("blocked: " + event.blockedURI));
const look = () => {
  if (!document.documentElement.dataset.drawn) return void setTimeout(look, 50);
  const root = document.documentElement;
  const drawn = [...document.querySelectorAll(".plot")].filter((plot) => plot.querySelector(".main-svg"));
  const radio = document.querySelector("#figure-acceptance input[value=proximity]");
  const before = document.querySelector("#figure-acceptance .plot").data[8].y.join();
  radio.click();
  setTimeout(() => parent.postMessage({
    drawn: drawn.length, figures: document.querySelectorAll(".plot").length,
    wide: root.scrollWidth, screen: root.clientWidth, errors: errors,
    paper: getComputedStyle(document.querySelector("section")).backgroundColor,
    plot: document.querySelector(".plot .main-svg").style.background,
    text: getComputedStyle(document.body).color,
    clipped: [...document.querySelectorAll("section *")].filter((e) => !e.closest(".scroll, pre, .plot")
      && e.getBoundingClientRect().right > root.clientWidth).length,
    switched: document.querySelector("#figure-acceptance .plot").data[8].y.join() !== before,
    title: document.title,
  }, "*"), 300);
};
look();
</script></head>"""
FRAME = """<!doctype html><body style="margin:0;background:#888"><iframe src="{page}"
style="border:0;display:block;width:{width}px;height:{height}px"></iframe><script>
addEventListener("message", (event) => {{ document.body.dataset.seen = JSON.stringify(event.data); }});
</script>"""
SIZES = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


def browse(folder: Path, page: Path, width: int, scheme: str, *flags: str) -> subprocess.CompletedProcess[str]:
    probed, frame = folder / "probed.html", folder / "frame.html"
    probed.write_text(page.read_text().replace("</head>", PROBE, 1))
    frame.write_text(FRAME.format(page=probed.name, width=width, height=1600))
    # Blink's own numbers: 0 is dark, 1 is light.
    choice = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    command = [str(BROWSER), *FLAGS, choice, f"--user-data-dir={folder / 'profile'}", "--window-size=1280,1600"]
    return subprocess.run([*command, *flags, frame.as_uri()], capture_output=True, text=True, timeout=120, check=True)


def seen(folder: Path, page: Path, width: int, scheme: str) -> dict[str, object]:
    done = browse(folder, page, width, scheme, "--enable-logging=stderr", "--dump-dom")
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert not console, console
    match = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert match, "the page never said that its figures were drawn"
    return json.loads(html.unescape(match.group(1)))


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_page_draws_and_fits(tmp_path, full_page, width, scheme):
    found = seen(tmp_path, full_page, width, scheme)
    assert found["errors"] == []
    assert found["drawn"] == found["figures"] == len(SHORT)
    assert found["screen"] == width
    assert found["wide"] == width
    assert found["clipped"] == 0
    assert found["switched"] is True
    dark = scheme == "dark"
    assert found["paper"] == ("rgb(23, 30, 38)" if dark else "rgb(255, 255, 255)")
    assert found["plot"] == found["paper"]


@pytest.mark.parametrize(("width", "scheme"), [SIZES[0], SIZES[3]])
def test_screenshot_is_not_blank(tmp_path, full_page, width, scheme):
    picture = tmp_path / "page.png"
    browse(tmp_path, full_page, width, scheme, f"--screenshot={picture}")
    rows = png_rows(picture.read_bytes())
    assert len(rows) == 1600
    assert len(set(rows)) > 200
    assert len({row[i : i + 3] for row in rows for i in range(0, len(row), 303)}) > 20


def test_hostile_names_run_nothing(tmp_path, maker):
    hostile = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    rows = [maker.checkpoint(1, step) for step in (50, 100)]
    tries = [maker.prediction(1, 50, name, k) for name in ("linear", hostile) for k in (5, 10)]
    run = maker.write_run(
        tmp_path / "run", {"preset": hostile}, {"command": hostile}, checkpoints=rows, predictions=tries
    )
    page = build_report(run).as_uri()
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
    done = subprocess.run([*command, "--dump-dom", page], capture_output=True, text=True, timeout=120, check=True)
    assert ":CONSOLE" not in done.stderr
    assert 'data-drawn="' in done.stdout
    assert "<title>owned</title>" not in done.stdout
    assert "<img" not in done.stdout.split("</main>")[0]


def png_rows(data: bytes) -> list[bytes]:
    """The pixel rows of an 8-bit RGB or RGBA picture without interlacing, filters undone for rows."""
    width, _, _, kind = struct.unpack(">IIBB", data[16:26])
    packed, at = b"", 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + size]
        at += size + 12
    raw, stride = zlib.decompress(packed), width * {2: 3, 6: 4}[kind] + 1
    return [raw[start : start + stride] for start in range(0, len(raw), stride)]
