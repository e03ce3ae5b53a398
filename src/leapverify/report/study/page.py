"""The page of a study: what the summary, the sections and the tables of one run show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

from leapverify.analysis.wording import counted
from leapverify.report.bench.page import BenchReport, bench_finding, bench_sections
from leapverify.report.kit.panels import Figure
from leapverify.report.kit.run import Run
from leapverify.report.kit.section import Page, PageSection, colophon, commands, facts, hardware, machine
from leapverify.report.kit.table import Table
from leapverify.report.race.page import RaceReport, race_finding, race_section
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.figures import build_figures
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
FOLDED = ("gain", "cascades", "costs")
"""Figures under which the table of the same name lies folded."""


@dataclass(frozen=True)
class StudyReport:
    """Figures and tables of one study, each made once."""

    analysis: Analysis

    @cached_property
    def figures(self) -> Mapping[str, Figure]:
        """The figures by name."""
        return build_figures(self.analysis)

    @cached_property
    def paper_tables(self) -> Sequence[Table]:
        """The paper's ten, and what belongs beside them."""
        return [*tables_of_runs(self.analysis.run), *tables_of_predictions(self.analysis)]

    @cached_property
    def further(self) -> Sequence[Table]:
        """The tables that the paper does not have."""
        return further_tables(self.analysis)

    @property
    def tables(self) -> Sequence[Table]:
        """All tables."""
        return [*self.paper_tables, *self.further]


def study_page(report: StudyReport, bench: BenchReport | None, race: RaceReport | None) -> Page:
    """What the page of a study shows, with its bench and its race where there are any."""
    run = report.analysis.run
    said = [*([bench_finding(bench)] if bench else ()), *([race_finding(race)] if race else ())]
    return Page(
        title="Leap+Verify: " + str(run.setting("preset", run.path.name)),
        identity=identity(run),
        heading="What this run shows",
        tiles=tiles(report.analysis),
        findings=[*findings(report.analysis), *said],
        sections=[
            *_drawn(report),
            *(bench_sections(bench) if bench else ()),
            *([race_section(race)] if race else ()),
            *_ends(report),
        ],
        colophon=colophon(run.environment),
        figures={**report.figures, **(bench.figures if bench else {}), **(race.figures if race else {})},
    )


def identity(run: Run) -> str:
    """One line: model, seeds, steps, data, hardware."""
    model, training = run.setting("model", {}), run.setting("training", {})
    shape = f"{model.get('family', 'model')} {model.get('layers', '?')}×{model.get('hidden', '?')}"
    parameters = run.environment.get("parameters")
    if isinstance(parameters, int):
        shape += f", {_count(parameters)} parameters"
    shape += _tuned(run.setting("tuning", {}) or {})
    seeds = f"{counted(len(run.seeds), 'seed')} ({', '.join(map(str, run.seeds))})"
    last, asked = run.steps[-1], training.get("steps", run.steps[-1])
    steps = f"{last} steps" if asked == last else f"{last} of {asked} steps"
    data = f"{run.setting('data.source', 'unknown data')} as {run.setting('data.tokenizer', 'tokens')}"
    return " · ".join([shape, seeds, steps, data, hardware(run.environment)])


def _tuned(tuning: Mapping[str, Any]) -> str:
    """What a run began with and what of it is trained; nothing where it began with random weights."""
    start, rank = tuning.get("start"), tuning.get("lora_rank")
    begun = "" if start is None else f", begun with {PurePath(str(start)).name}"
    return begun + ("" if rank is None else f", LoRA of rank {rank}")


def _drawn(report: StudyReport) -> list[PageSection]:
    """A section for every figure, and the ladder where it was run."""
    folded = {table.name: table for table in report.further}
    found = []
    for name, short in {**SHORT, **WHERE_RECORDED}.items():
        if name in report.figures:
            figure, under = report.figures[name], [folded[name]] if name in FOLDED else ()
            found.append(PageSection(name, short, figure.title, figures=[figure], folded=under))
    rungs = ladder(report.analysis.run)
    if rungs:
        heading = "Where the paper's numbers come from: switch by switch"
        found.append(PageSection("ladder", "Ladder", heading, tables=[rungs]))
    return found


def _ends(report: StudyReport) -> list[PageSection]:
    """What every page of a study ends with."""
    run = report.analysis.run
    others = ", ".join(f"tables/{table.name}.csv" for table in report.further)
    return [
        PageSection(
            "tables",
            "Tables",
            "The paper's ten tables, beside the paper's own numbers",
            "Each also lies in tables/ as CSV in full precision and as Markdown. An empty cell says why. "
            f"Further tables: {others}.",
            tables=report.paper_tables,
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
