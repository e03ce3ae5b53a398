"""One self-contained offline page, and the tables and figures beside it, from a run folder's records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from leapverify.report.analysis import Analysis
from leapverify.report.figures import build_figures, write_figures
from leapverify.report.legend import swatch, variables
from leapverify.report.panels import Figure
from leapverify.report.run import Run, flat, load_run, lookup
from leapverify.report.summary import findings, tiles
from leapverify.report.table import Cell, Column, Line, Table, write_tables
from leapverify.report.tables import tables_of_runs
from leapverify.report.tables_more import further_tables, ladder
from leapverify.report.tables_predict import tables_of_predictions
from leapverify.report.theme import DARK, LIGHT
from leapverify.storage import write_text

SHORT = {
    "regimes": "Regimes", "similarity": "Similarity", "losses": "Losses", "acceptance": "Acceptance", "gain": "Gain",
    "momentum": "Momentum", "cka": "Seeds", "collapse": "Collapse", "sensitivity": "Thresholds", "skill": "Skill",
    "cascades": "Cascades", "signals": "Signals", "costs": "Cost",
}  # fmt: skip
"""Figures in the order of the page, and what the navigation calls them."""
FOLDED = {"gain": "gain", "cascades": "cascades", "costs": "costs"}
"""Which further table lies folded under which figure."""


@dataclass(frozen=True)
class Section:
    """One section of the page."""

    id: str
    short: str
    heading: str
    note: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()
    folded_label: str = "Numbers"
    code: Sequence[str] = ()


def build_report(run: Path) -> Path:
    """Write tables/, figures/ and report.html into a run folder, from its records alone.

    Args:
        run: a run folder with checkpoints.parquet, config.yaml and environment.json; predictions, cascades, curve and
            seeds where the study made them.

    Returns:
        The path of report.html.

    Raises:
        ValueError: a file that is missing, damaged or without checkpoints; the message names it.
    """
    analysis = Analysis(load_run(run))
    tables = [*tables_of_runs(analysis.run), *tables_of_predictions(analysis)]
    further = further_tables(analysis)
    figures = build_figures(analysis)
    write_tables([*tables, *further], run / "tables")
    write_figures(figures, run / "figures")
    write_text(run / "report.html", render(analysis, figures, tables, further))
    return run / "report.html"


def render(analysis: Analysis, figures: Mapping[str, Figure], tables: Sequence[Table], further: Sequence[Table]) -> str:
    """The page as text."""
    from plotly.offline import get_plotlyjs

    run = analysis.run
    views = {
        figure.name: [
            {"choice": view.choice, "data": view.data, "layout": view.layout, "narrow": view.narrow}
            for view in figure.views
        ]
        for figure in figures.values()
    }
    return _template().render(
        title="Leap+Verify: " + str(run.setting("preset", run.path.name)),
        identity=identity(run),
        tiles=tiles(analysis),
        findings=findings(analysis),
        sections=sections(run, figures, tables, further),
        colophon=_colophon(run),
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
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def identity(run: Run) -> str:
    """One line: model, seeds, steps, data, hardware."""
    model, training = run.setting("model", {}), run.setting("training", {})
    shape = f"{model.get('family', 'model')} {model.get('layers', '?')}×{model.get('hidden', '?')}"
    parameters = run.environment.get("parameters")
    if isinstance(parameters, int):
        shape += f", {_count(parameters)} parameters"
    seeds = f"{len(run.seeds)} seed" + ("s" if len(run.seeds) != 1 else "")
    seeds += f" ({', '.join(str(seed) for seed in run.seeds)})"
    steps = f"{run.steps[-1]} of {training['steps']} steps" if "steps" in training else f"{run.steps[-1]} steps"
    if training.get("steps") == run.steps[-1]:
        steps = f"{run.steps[-1]} steps"
    data = f"{run.setting('data.source', 'unknown data')} as {run.setting('data.tokenizer', 'tokens')}"
    return " · ".join([shape, seeds, steps, data, hardware(run)])


def hardware(run: Run) -> str:
    """The machine, in a few words."""
    environment = run.environment
    gpu, cores = lookup(environment, "gpu.name"), environment.get("cores")
    if gpu:
        return str(gpu)
    text = str(environment.get("cpu") or environment.get("device") or "hardware not recorded")
    return f"{text}, {cores} cores" if cores else text


def sections(
    run: Run, figures: Mapping[str, Figure], tables: Sequence[Table], further: Sequence[Table]
) -> list[Section]:
    """The sections of the page after the summary, in order."""
    folded = {table.name: table for table in further}
    drawn = [
        Section(name, short, figures[name].title, figures=[figures[name]],
                folded=[folded[FOLDED[name]]] if name in FOLDED else ())
        for name, short in SHORT.items()
    ]  # fmt: skip
    rungs = ladder(run)
    if rungs:
        drawn.append(
            Section("ladder", "Ladder", "Where the paper's numbers come from: switch by switch", tables=[rungs])
        )
    others = ", ".join(f"tables/{table.name}.csv" for table in further)
    return [
        *drawn,
        Section(
            "tables",
            "Tables",
            "The paper's ten tables, beside the paper's own numbers",
            "Each also lies in tables/ as CSV in full precision and as Markdown. An empty cell says why. "
            f"Further tables: {others}.",
            tables=tables,
        ),
        Section(
            "machine",
            "Machine",
            "Hardware, versions and configuration",
            tables=[_facts("environment", "Environment", run.environment)],
            folded=[_facts("configuration", "Configuration", run.config)],
            folded_label="The whole configuration",
        ),
        Section(
            "command",
            "Command",
            "The command",
            "The first made the records, the second makes this page again from them.",
            code=[command(run), f"leapverify report {run.path.name or '.'}"],
        ),
    ]


def command(run: Run) -> str:
    """The command that made the run, as recorded, or what is known of it."""
    recorded = run.environment.get("command")
    seeds = ",".join(str(seed) for seed in run.seeds)
    return str(recorded or f"leapverify study {run.setting('preset', '')} --seeds {seeds} --steps {run.steps[-1]}")


def _facts(name: str, heading: str, tree: Mapping[str, Any]) -> Table:
    rows = [Line([Cell(key, kind="heading"), Cell(value)]) for key, value in flat(tree).items()]
    return Table(name, heading, "", [Column("name", False), Column("value", False)], rows)


def _colophon(run: Run) -> str:
    version = lookup(run.environment, "versions.leapverify") or "unknown version"
    return f"leapverify {version}. The paper: arXiv 2602.19580. This page loads nothing from any network."


def _count(n: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(n)


def tied(text: str) -> str:
    """A text in which a number and its sign stay on one line."""
    for loose in (" %", "n = ", "K = ", " ×", "± "):
        text = text.replace(loose, loose.replace(" ", "\u00a0"))
    return text


def _asset(name: str) -> str:
    return resources.files("leapverify.report").joinpath(name).read_text(encoding="utf-8")


def _template() -> Any:
    environment = Environment(autoescape=True, trim_blocks=False, lstrip_blocks=False)
    environment.filters["swatch"] = swatch
    environment.filters["tied"] = tied
    return environment.from_string(_asset("page.html"))
