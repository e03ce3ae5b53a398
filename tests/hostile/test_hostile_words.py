"""Names that would act: in a page, a spreadsheet, a Markdown file, a terminal; each becomes what it looks like."""

from __future__ import annotations

import contextlib
import csv
import http.server
import io
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from rich.console import Console

from hostile_readers import row
from leapverify.cli.progress import PlainView
from leapverify.io import records
from leapverify.io.records import CascadeLink, Checkpoint, LossPoint, Prediction, RacePoint, RaceRun, SeedMeasure
from leapverify.io.untrusted import escape as words
from leapverify.io.untrusted.escape import inert
from leapverify.io.untrusted.paths import plain_name
from leapverify.report import build_report
from leapverify.report.page import script_json
from leapverify.runs.progress import Progress

pytestmark = pytest.mark.failure(16)
BROWSER = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)


def name_of(address: str) -> str:
    """One name with all of it."""
    return (
        f"=HYPERLINK(\"{address}/f\")</script><script src='{address}/s.js'></script><script>document.title='owned'"
        f"</script><img src={address}/i.png onerror=\"document.title='owned'\">"
        f"<a href=\"javascript:document.title='owned'\">x</a><link rel=stylesheet href={address}/c.css>"
        "<svg onload=\"document.title='owned'\"></svg>"
        f"[x](javascript:alert(1)) ![x]({address}/m.png) `code` | column | <!-- --> {{{{7*7}}}} {{% raw %}} %{{x}}\n"
        f"# heading\r\t\x1b]0;owned\x07\x1b[2J\x1b[31mred \u202egnp.exe\u2066 \x00\x9b31m &amp; 'single' \"double\""
    )


ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


@given(st.text())
def test_inert_words_hold_no_control_and_stay_inert(text: str) -> None:
    shown = inert(text)
    assert not ACTIVE.search(shown)
    assert inert(shown) == shown
    if text.isascii() and text.isprintable():
        assert shown == text


@given(st.recursive(st.text() | st.integers(), lambda part: st.lists(part) | st.dictionaries(st.text(), part)))
def test_json_in_a_page_is_the_same_with_inert_words(tree: Any) -> None:
    def expected(value: Any) -> Any:
        if isinstance(value, str):
            # Code points beyond the first plane are written as two halves, and those of tags stay so.
            return "".join(each if each > "\uffff" or "\ud800" <= each <= "\udfff" else inert(each) for each in value)
        if isinstance(value, list):
            return [expected(each) for each in value]
        if isinstance(value, dict):
            return {expected(key): expected(each) for key, each in value.items()}
        return value

    text = script_json(tree)
    assert isinstance(text, Markup)
    assert not re.search("[<>&]", text)
    assert not ACTIVE.search(text)
    # Two keys may look alike once they are inert; that one of them is then gone is no harm.
    if not isinstance(tree, dict | list):
        assert json.loads(text) == expected(tree)


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", " =", "  +"])
def test_a_formula_is_a_text(sign: str) -> None:
    shown = words.field(f"{sign}cmd|' /C calc'!A0")
    assert str(shown).startswith("'")


@pytest.mark.parametrize(
    "value", [1, -1, -0.5, 1e-300, True, None, "-1", "-1.5e-3", "+2", ".5", "linear", "taylor-3", ""]
)
def test_numbers_stay_numbers(value: Any) -> None:
    assert words.field(value) == value


@given(st.text(min_size=1))
def test_no_text_begins_a_formula(text: str) -> None:
    shown = str(words.field(text))
    assert not shown.startswith(("=", "@", "\t", "\r")) or shown.startswith("'")
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([shown, 1])
    assert next(csv.reader(io.StringIO(out.getvalue(), newline=""))) == [shown, "1"]


@given(st.text())
def test_markdown_keeps_one_line_without_tags_links_and_columns(text: str) -> None:
    shown = words.markdown(text)
    assert "\n" not in shown
    assert not re.search(r"[<>]", shown)
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`]", shown)
    assert not re.search(r"(?<!\\)(?:\\\\)*\][(\[:]", shown)


def test_a_terminal_shows_names_and_obeys_none() -> None:
    out = io.StringIO()
    view = PlainView(Console(file=out, force_terminal=True, color_system=None, width=4000))
    view.update(Progress(1, 1, 2, "note", note=name_of("http://x")))
    assert "\x1b" not in out.getvalue()
    assert "\\x1b[2J" in out.getvalue()
    assert not ACTIVE.search(out.getvalue())


def test_the_command_line_shows_names_and_obeys_none(tmp_path: Path) -> None:
    folder = tmp_path / "\x1b]0;owned\x07\u202e=x"
    done = subprocess.run([sys.executable, "-m", "leapverify", "report", str(folder)],
                          capture_output=True, timeout=120, check=False)  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.decode().count("\n") == 1
    assert not ACTIVE.search(done.stderr.decode())
    assert "\\x1b]0;owned\\x07\\u202e=x" in done.stderr.decode()


def hostile_run(run: Path, name: str) -> Path:
    """A run, a ladder and a race in which every name is this one."""
    config = {"preset": name, "data": {"source": name, "tokenizer": name}, "model": {"family": name},
              "sweep": {"predictors": [name]}, "regimes": {"thresholds": name}, name: name,
              "training": {"weights": name, "rounding": name}}  # fmt: skip
    environment = {"command": name, "cpu": name, "gpu": {"name": name}, "versions": {"leapverify": name, name: name}}
    every = {"regime": "stable", "status": "ok", "reason": name}
    of_race = {"task": "pretrain", "optimizer": "adamw", "rate": "tuned", "stage": "race"}
    arms = [{**of_race, "arm": arm, "seed": seed} for arm in ("baseline", name) for seed in (0, 1)]
    at = [(step, each, k) for step in (50, 100) for each in ("linear", name) for k in (5, 10)]
    link = {"step": 50, "predictor": name, "kind": "chained", "depth": 2, "horizon": 50, "status": "ok"}
    rows: dict[str, tuple[type, list[Any]]] = {
        "checkpoints": (Checkpoint, [row(Checkpoint, step=step, regime="stable") for step in (50, 100, 150)]),
        "curve": (LossPoint, [row(LossPoint, step=step) for step in range(50, 151, 5)]),
        "predictions": (Prediction, [row(Prediction, step=s, predictor=p, horizon=k, **every) for s, p, k in at]),
        "cascades": (CascadeLink, [row(CascadeLink, **link, link=number) for number in (1, 2)]),
        "seeds": (SeedMeasure, [row(SeedMeasure, measure="final_val_loss", step=150)]),
        "race/runs": (RaceRun, [row(RaceRun, **each) for each in arms]),
        "race/curve": (RacePoint, [row(RacePoint, **each, step=step) for each in arms for step in (1, 2)]),
    }
    (run / "race").mkdir(parents=True)
    (run / "tables").mkdir()
    for file, (kind, found) in rows.items():
        records.write(run / f"{file}.parquet", kind, found)  # type: ignore[type-var]
    for folder in (run, run / "race"):
        (folder / "config.yaml").write_text(json.dumps(config))
        (folder / "environment.json").write_text(json.dumps(environment))
    (run / "race" / "notes.json").write_text(json.dumps([name]))
    (run / "race" / "targets.json").write_text(json.dumps({name: {"target": name}}))
    out = io.StringIO()
    csv.writer(out).writerows(
        [["variant", "table", "quantity", "mean", "reason"], [name.replace("\0", ""), "3", "x", "", ""]]
    )
    (run / "tables" / "ladder.csv").write_text(out.getvalue())
    return run


@pytest.fixture(scope="module")
def asked() -> Iterator[tuple[str, list[str]]]:
    """A server's address, and what it was asked for."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", paths
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, asked: tuple[str, list[str]]) -> Path:
    """The report of the hostile run."""
    return build_report(hostile_run(tmp_path_factory.mktemp("hostile") / "run", name_of(asked[0])))


def test_every_file_of_a_report_is_inert(reported: Path) -> None:
    everything = [path for path in reported.parent.rglob("*") if path.is_file()]
    assert all(plain_name(path.name) for path in everything)
    files = [path for path in everything if path.suffix in (".md", ".csv", ".html")]
    assert len(files) > 20
    for path in files:
        text = path.read_text()
        found = ACTIVE.search(text.replace("\r\n", "\n")) if path.suffix != ".html" else None
        assert found is None or path.name == "ladder.csv", (path, found)
        if path.suffix == ".md":
            assert not re.search(r"<(script|img|a|svg|link)", text), path
            assert not re.search(r"(?<!\\)\]\((javascript|http)", text), path
        if path.suffix == ".csv" and path.name != "ladder.csv":
            for record in csv.reader(io.StringIO(text, newline="")):
                assert not [each for each in record if each.startswith(("=", "@", "\t"))], path


def test_specifications_of_figures_hold_no_markup_of_others(reported: Path) -> None:
    text = reported.read_text()
    figures = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL)
    assert figures is not None

    def strings(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            # A view's choice is compared with what was clicked, and drawn nowhere.
            parts = [each for key, each in value.items() if key != "choice"] if isinstance(value, dict) else value
            for each in parts:
                yield from strings(each)

    markup = {found for each in strings(json.loads(figures[1])) for found in re.findall(r"<[^>]*>", each)}
    assert markup <= {"<b>", "</b>", "<br>", "<sub>", "</sub>", "<i>", "</i>", "<extra></extra>", "<extra>", "</extra>"}


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome on this machine")
def test_a_browser_runs_nothing_and_asks_no_network(
    reported: Path, asked: tuple[str, list[str]], tmp_path: Path
) -> None:
    address, paths = asked
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--virtual-time-budget=15000", "--enable-logging=stderr", "--dump-dom"]  # fmt: skip
    done = subprocess.run([str(BROWSER), *flags, f"--user-data-dir={tmp_path / 'profile'}", reported.as_uri()],
                          capture_output=True, text=True, timeout=180, check=True)  # fmt: skip
    assert 'data-drawn="' in done.stdout  # plotly drew its figures
    assert ":CONSOLE" not in done.stderr
    assert "<title>owned</title>" not in done.stdout
    assert address in done.stdout  # the name is there, to be read
    assert paths == []
    named = [path for path in (reported.parent / "figures").glob("*.html") if "HYPERLINK" in path.read_text()]
    alone = subprocess.run([str(BROWSER), *flags, f"--user-data-dir={tmp_path / 'profile'}", named[0].as_uri()],
                           capture_output=True, text=True, timeout=180, check=True)  # fmt: skip
    assert "main-svg" in alone.stdout
    assert "<title>owned</title>" not in alone.stdout
    assert paths == []
    body = done.stdout.split("</main>")[0]
    assert not re.search(r"<(img|a href=\"(?!#)|script|link rel=\"?stylesheet)", body.split("<body>")[1])
    with contextlib.suppress(IndexError):
        assert "49" not in body.split("{{7*")[1][:3]
