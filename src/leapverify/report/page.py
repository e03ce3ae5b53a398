"""One self-contained offline page, and the tables and figures beside it, from a run folder's records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from leapverify.io.storage import write_text
from leapverify.io.untrusted.escape import inert, inert_json
from leapverify.io.yaml_file import as_written
from leapverify.report.bench.page import BenchReport, bench_finding, bench_report, bench_sections
from leapverify.report.kit.panels import Figure, swatch, variables
from leapverify.report.kit.run import Run, load_race, load_run
from leapverify.report.kit.section import Page, Section, colophon, commands, facts, hardware, machine
from leapverify.report.kit.table import Table, write_tables
from leapverify.report.kit.theme import DARK, LIGHT
from leapverify.report.race.page import RaceReport, race_finding, race_page, race_section
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.figures import build_figures, write_figures
from leapverify.report.study.summary import findings, tiles
from leapverify.report.study.tables import tables_of_runs
from leapverify.report.study.tables_more import further_tables, ladder
from leapverify.report.study.tables_predict import tables_of_predictions

SHORT = {
    "regimes": "Regimes", "similarity": "Similarity", "losses": "Losses", "acceptance": "Acceptance", "gain": "Gain",
    "momentum": "Momentum", "cka": "Seeds", "collapse": "Collapse", "sensitivity": "Thresholds", "skill": "Skill",
    "cascades": "Cascades", "signals": "Signals", "costs": "Cost",
}  # fmt: skip
"""Figures in the order of the page, and what the navigation calls them."""
WHERE_RECORDED = {"updates": "Updates"}
"""Figures after them that only some studies have the records for."""
_AGAIN = "give the command that made its records again"
FOLDED = {"gain": "gain", "cascades": "cascades", "costs": "costs"}
"""Which further table lies folded under which figure."""


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
    analysis = Analysis(load_run(run))
    bench = bench_report(analysis.run)
    with as_written(run, _AGAIN):
        tables = [*tables_of_runs(analysis.run), *tables_of_predictions(analysis)]
        further = further_tables(analysis)
        beside = RaceReport(analysis.run.race) if analysis.run.race else None
        page = study_page(analysis, build_figures(analysis), tables, further, beside, bench)
        more = [table for part in (bench, beside) if part for table in part.tables]
        return _write(run, page, [*tables, *further, *more])


def _write(run: Path, page: Page, tables: Sequence[Table]) -> Path:
    write_tables(tables, run / "tables")
    write_figures(dict(page.figures), run / "figures")
    write_text(run / "report.html", render(page))
    return run / "report.html"


def study_page(
    analysis: Analysis,
    figures: Mapping[str, Figure],
    tables: Sequence[Table],
    further: Sequence[Table],
    race: RaceReport | None = None,
    bench: BenchReport | None = None,
) -> Page:
    """What the page of a study shows, with its bench and its race where there are any."""
    run = analysis.run
    return Page(
        title="Leap+Verify: " + str(run.setting("preset", run.path.name)),
        identity=identity(run),
        heading="What this run shows",
        tiles=tiles(analysis),
        findings=[
            *findings(analysis),
            *([bench_finding(bench)] if bench else ()),
            *([race_finding(race)] if race else ()),
        ],
        sections=sections(run, figures, tables, further, race, bench),
        colophon=colophon(run.environment),
        figures={**figures, **(bench.figures if bench else {}), **(race.figures if race else {})},
    )


def render(page: Page) -> str:
    """The page as text."""
    from plotly.offline import get_plotlyjs

    views = {
        figure.name: [
            {"choice": view.choice, "data": view.data, "layout": view.layout, "narrow": view.narrow}
            for view in figure.views
        ]
        for figure in page.figures.values()
    }
    return _template().render(
        title=page.title,
        identity=page.identity,
        heading=page.heading,
        tiles=page.tiles,
        findings=page.findings,
        sections=page.sections,
        colophon=page.colophon,
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


def identity(run: Run) -> str:
    """One line: model, seeds, steps, data, hardware."""
    model, training = run.setting("model", {}), run.setting("training", {})
    shape = f"{model.get('family', 'model')} {model.get('layers', '?')}×{model.get('hidden', '?')}"
    parameters = run.environment.get("parameters")
    if isinstance(parameters, int):
        shape += f", {_count(parameters)} parameters"
    shape += _tuned(run.setting("tuning", {}) or {})
    seeds = f"{len(run.seeds)} seed" + ("s" if len(run.seeds) != 1 else "")
    seeds += f" ({', '.join(str(seed) for seed in run.seeds)})"
    steps = f"{run.steps[-1]} of {training['steps']} steps" if "steps" in training else f"{run.steps[-1]} steps"
    if training.get("steps") == run.steps[-1]:
        steps = f"{run.steps[-1]} steps"
    data = f"{run.setting('data.source', 'unknown data')} as {run.setting('data.tokenizer', 'tokens')}"
    return " · ".join([shape, seeds, steps, data, hardware(run.environment)])


def _tuned(tuning: Mapping[str, Any]) -> str:
    """What a run began with and what of it is trained; nothing where it began with random weights."""
    start, rank = tuning.get("start"), tuning.get("lora_rank")
    begun = "" if start is None else f", begun with {PurePath(str(start)).name}"
    return begun + ("" if rank is None else f", LoRA of rank {rank}")


def sections(
    run: Run,
    figures: Mapping[str, Figure],
    tables: Sequence[Table],
    further: Sequence[Table],
    race: RaceReport | None = None,
    bench: BenchReport | None = None,
) -> list[Section]:
    """The sections of the page after the summary, in order."""
    folded = {table.name: table for table in further}
    drawn = [
        Section(name, short, figures[name].title, figures=[figures[name]],
                folded=[folded[FOLDED[name]]] if name in FOLDED else ())
        for name, short in {**SHORT, **WHERE_RECORDED}.items()
        if name in figures
    ]  # fmt: skip
    rungs = ladder(run)
    if rungs:
        drawn.append(
            Section("ladder", "Ladder", "Where the paper's numbers come from: switch by switch", tables=[rungs])
        )
    if bench:
        drawn += bench_sections(bench)
    if race:
        drawn.append(race_section(race))
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
        machine(run.environment, facts("configuration", "Configuration", run.config)),
        commands(command(run), run.path.name),
    ]


def command(run: Run) -> str:
    """The command that made the run, as recorded, or what is known of it."""
    recorded = run.environment.get("command")
    seeds = ",".join(str(seed) for seed in run.seeds)
    return str(recorded or f"leapverify study {run.setting('preset', '')} --seeds {seeds} --steps {run.steps[-1]}")


def _count(n: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(n)


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
