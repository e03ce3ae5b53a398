"""A thousand names that would act, through every writer that puts names into a page, a table or a terminal."""

from __future__ import annotations

import io
import logging
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from hostile.test_hostile_words import hostile_run
from hostile_browser import BROWSER, seen_in_a_browser
from hostile_names import (
    Skeleton,
    hostile_name,
    wrong_csv,
    wrong_figures,
    wrong_markdown,
    wrong_terminal,
)
from leapverify.analysis.over_seeds import OverSeeds
from leapverify.cli.arguments import InertLines, say
from leapverify.cli.progress import RACE, STUDY, LiveView, PlainView
from leapverify.io.untrusted.escape import inert
from leapverify.report import build_report
from leapverify.report.kit.panels import Axis, Figure, LegendKey, Panel, grid
from leapverify.report.kit.section import Headline, Page, PageSection, SummaryLine
from leapverify.report.kit.table import Cell, Column, Line, Table, name, text
from leapverify.report.kit.theme import Mark, plain
from leapverify.report.page import render
from leapverify.runs.progress import Progress, RaceProgress
from leapverify.study import ladder
from soak._record import record, scale

pytestmark = pytest.mark.failure(16)
NAMES, PER_PAGE, REPORTS = scale(1000), 50, scale(20)
COMMAND = "HYPOTHESIS_PROFILE=soak python -m pytest tests/soak/test_soak_words.py"


def test_a_thousand_names_that_would_act(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin, chance = time.perf_counter(), random.Random(16)
    names = [hostile_name(chance) for _ in range(NAMES)]
    batches = [names[at : at + PER_PAGE] for at in range(0, NAMES, PER_PAGE)]
    wrong: dict[str, dict[str, str]] = {}
    tried, bad = Counter[str](), Counter[str]()

    def judge(writer: str, names: Sequence[str], said: str | None) -> None:
        tried[writer] += len(names)
        bad[writer] += said is not None and len(names)
        for each in names if said is not None else ():
            wrong.setdefault(each, {})[writer] = str(said)

    for each in names:
        for writer, said in on_terminals(each, capsys):
            judge(writer, [each], wrong_terminal(said))
    for batch in batches:
        for writer, said in in_tables(batch):
            judge(writer, batch, said)
        judge("page", batch, wrong_page(batch))
    plain_report = Skeleton(build_report(hostile_run(tmp_path / "plain", "linear-9")).read_text())
    # Records hold no half characters, and the configuration here is JSON, which writes large ones as two halves.
    whole = [each for each in names if not re.search("[\ud800-\udfff\U00010000-\U0010ffff]", each)]
    for number, each in enumerate(whole[:REPORTS]):
        judge("whole report", [each], wrong_report(tmp_path / str(number), each, plain_report))
    pages = [page_of(batch) for batch in batches][: scale(20)]
    if BROWSER is not None:
        for batch, said in zip(batches, seen_in_a_browser(tmp_path, pages), strict=False):
            judge("page in chromium", batch, said)
    record(
        "words", rows=[16], command=COMMAND, tried=NAMES, survived=NAMES - len(wrong), lost=len(wrong),
        seconds=time.perf_counter() - begin, packages=["jinja2", "rich"],
        tables={"writers": [
            {"writer": writer, "tried": count, "survived": count - bad[writer]} for writer, count in tried.items()
        ]},
        note="names of one to six pieces that would act (markup, quotes, scripts, formulas, columns, links, control"
        " characters, marks that turn the writing, lone surrogates, 5,000 letters) through every writer; survived:"
        " parsed back, no tag, attribute, script, formula, column, link or control character is of a name, and each"
        " name is there to be read",
    )  # fmt: skip
    assert not wrong, dict(list(wrong.items())[:5])


# --- terminals --------------------------------------------------------------------------------------------------------


def on_terminals(word: str, capsys: pytest.CaptureFixture[str]) -> Iterator[tuple[str, str]]:
    """What each writer of terminals writes of a name."""
    noted = Progress(1, 1, 2, "note", note=word, study=word)
    raced = RaceProgress(1, 1, 2, "unit", stage="race", what=word)
    views: dict[str, tuple[Callable[[Console], PlainView | LiveView], Progress]] = {
        "lines of a study": (PlainView, noted),
        "lines of a race": (lambda console: PlainView(console, RACE), raced),
        "table of a study": (lambda console: LiveView(console, STUDY), Progress(1, 1, 2, "train", study=word)),
        "table of a race": (lambda console: LiveView(console, RACE), raced),
    }
    for writer, (made, progress) in views.items():
        out = io.StringIO()
        console = Console(file=out, force_terminal=True, color_system=None, width=400)
        view = made(console)
        view.update(progress)
        if isinstance(view, LiveView):
            console.print(view.table())
        yield writer, out.getvalue()
    say(word)
    yield "an answer", capsys.readouterr().out
    yield "a log line", InertLines("%(message)s").format(logging.LogRecord("x", 30, "", 0, word, None, None))


# --- tables -----------------------------------------------------------------------------------------------------------


def table_of(names: Sequence[str]) -> Table:
    """A table that says every name in every place."""
    rows = [Line([name("key", each), text("value", each)]) for each in names]
    return Table("one", f"Of {names[0]}", f"Of {names[-1]}", [Column(names[0]), Column(names[-1], False)], rows)


def in_tables(names: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """What is wrong with the tables of names."""
    table, count = table_of(names), len(names)
    yield "CSV of a table", wrong_csv(table.to_csv(), (count + 1, 2))
    headed = Table("two", "", "", (), [Line([Cell("", fields={f"{each}{at}": 1 for at, each in enumerate(names)})])])
    yield "CSV by headings", wrong_csv(headed.to_csv(), (2, count))
    yield "Markdown of a table", wrong_markdown(table.to_markdown(), count + 6)
    empty = OverSeeds(mean=None, std=None, cov_percent=None, low=None, high=None, n=0, per_seed=(), reason=names[0])
    rungs = [ladder.Rung("one", "3", f"{each}{at}", empty) for at, each in enumerate(names)]
    yield "CSV of a ladder", wrong_csv(ladder.as_csv(rungs), (count + 1, 10))


# --- pages ------------------------------------------------------------------------------------------------------------


def page_of(names: Sequence[str]) -> str:
    """A page that says every name in every place that it has."""
    mark = Mark("@ink", "circle", "solid")
    view = grid(
        [Panel(plain(each), [{"type": "scatter", "x": [1], "y": [2], "name": plain(each)}]) for each in names[:4]],
        Axis(plain(names[0])), Axis(plain(names[-1])), columns=2, choice=(names[0],),
    )  # fmt: skip
    controls = {names[-1]: [names[0]]}
    figures = [
        Figure("drawn", names[0], names[-1], [view], controls, [LegendKey(each, mark) for each in names]),
        Figure("empty", names[0], names[-1], why=names[0]),
    ]
    findings = [SummaryLine(each, each) for each in names]
    sections = [
        PageSection(
            "one", names[0], names[-1], names[0], findings, figures, [table_of(names)], [table_of(names)],
            names[-1], names,
        )
    ]  # fmt: skip
    tiles = [Headline(each, each, each) for each in names]
    title, heading, colophon = names[0], names[-1], names[0]
    page = Page(title, names[-1], heading, tiles, findings, sections, colophon, {each.name: each for each in figures})
    return render(page)


@cache
def plain_page(count: int) -> Skeleton:
    """The page of as many plain names."""
    return Skeleton(page_of(["linear"] * count))


def wrong_page(names: Sequence[str]) -> str | None:
    """What of a page of names is not as in a page of plain ones; None: nothing but what it says."""
    found, wanted = Skeleton(page_of(names)), plain_page(len(names))
    if found.tags != wanted.tags or found.values != wanted.values:
        return "other tags, attributes or addresses"
    figures = wanted.scripts.index(next(each for each in wanted.scripts if '"drawn"' in each[:20]))
    if [*found.scripts[:figures], *found.scripts[figures + 1 :]] != [
        *wanted.scripts[:figures], *wanted.scripts[figures + 1 :]
    ]:  # fmt: skip
        return "another script"
    if said := wrong_figures(found.scripts[figures]):
        return said
    texts = "".join(found.said).replace("\u00a0", " ")
    missing = [each for each in names if inert(each).replace("\u00a0", " ") not in texts]
    return f"not said: {missing[:3]!r}" if missing else None


def wrong_report(folder: Path, word: str, plain_report: Skeleton) -> str | None:
    """What is wrong with a whole report in which every name is this one, beside one of plain names."""
    page = Skeleton(build_report(hostile_run(folder, word)).read_text())
    others = {*page.tags} - {*plain_report.tags} or {*page.values} - {*plain_report.values}
    said = f"other tags, attributes or addresses: {sorted(map(str, others))[:3]}" if others else None
    said = said or wrong_figures(next(each for each in page.scripts if each.startswith("{")))
    for path in sorted((folder / "tables").glob("*.csv")):
        # The ladder is another command's, and lay there already.
        said = said or (None if path.name == "ladder.csv" else wrong_csv(path.read_text(), None))
    shutil.rmtree(folder)
    return said
