"""One self-contained offline page, and the tables and figures beside it, from a run folder's records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from leapverify.io.storage import write_text
from leapverify.io.untrusted.escape import inert, inert_json
from leapverify.io.yaml_file import as_written
from leapverify.report.bench.page import load_bench
from leapverify.report.kit.figure_files import write_figures
from leapverify.report.kit.legend import swatch, variables
from leapverify.report.kit.run import load_race, load_run
from leapverify.report.kit.section import Page
from leapverify.report.kit.table import Table, write_tables
from leapverify.report.kit.theme import DARK, LIGHT
from leapverify.report.race.page import RaceReport, race_page
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.page import StudyReport, study_page

_AGAIN = "give the command that made its records again"


def build_report(run: Path) -> Path:
    """Write tables/, figures/ and report.html into a run folder, from its records alone.

    Args:
        run: a run folder with checkpoints.parquet, config.yaml and environment.json; predictions, cascades, curve and
            seeds where the study made them, bench/ where predictors were benched, race/ where a race was run. A folder
            with race/ alone makes a page of it.

    Returns:
        The path of report.html.

    Raises:
        ValueError: a file that is missing, damaged or without checkpoints; the message names it.
    """
    if not (run / "checkpoints.parquet").is_file() and (alone := load_race(run)):
        with as_written(run, _AGAIN):
            race = RaceReport(alone)
            return _write(run, race_page(race), race.tables)
    records = load_run(run)
    bench = load_bench(run, records.config)
    with as_written(run, _AGAIN):
        study = StudyReport(Analysis(records))
        beside = RaceReport(records.race) if records.race else None
        tables = [table for part in (study, bench, beside) if part for table in part.tables]
        return _write(run, study_page(study, bench, beside), tables)


def _write(run: Path, page: Page, tables: Sequence[Table]) -> Path:
    write_tables(tables, run / "tables")
    write_figures(page.figures, run / "figures")
    write_text(run / "report.html", render(page))
    return run / "report.html"


def render(page: Page) -> str:
    """The page as text."""
    from plotly.offline import get_plotlyjs

    views = {figure.name: [vars(view) for view in figure.views] for figure in page.figures.values()}
    return _template().render(
        **vars(page),
        css=Markup(_asset("page.css")),
        light=Markup(variables(LIGHT)),
        dark=Markup(variables(DARK)),
        js=Markup(_asset("page.js")),
        plotly_js=Markup(get_plotlyjs()),
        figures_json=script_json(views),
        palettes_json=script_json({"light": LIGHT, "dark": DARK}),
    )


def script_json(value: Any) -> Markup:
    """JSON that is inert inside a script element: no name in it can close the element or open a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(inert_json(text).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def tied(text: str) -> str:
    """A text in which a number and its sign stay on one line."""
    for loose in (" %", "n = ", "p = ", "K = ", " ×", "± "):
        text = text.replace(loose, loose.replace(" ", "\u00a0"))
    return text


def _asset(name: str) -> str:
    return resources.files("leapverify.report").joinpath(name).read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    """What a template prints, inert: our own markup as it is."""
    return inert(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _template() -> Any:
    environment = Environment(autoescape=True, trim_blocks=False, lstrip_blocks=False, finalize=_shown)
    environment.filters["swatch"] = swatch
    environment.filters["tied"] = tied
    return environment.from_string(_asset("page.html"))
