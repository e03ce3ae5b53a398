"""Benches of several tasks side by side: one leaderboard and one table of claims, as Markdown."""

from __future__ import annotations

import functools
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from leapverify.analysis.bench.values import Place
from leapverify.analysis.bench.verdicts import raced
from leapverify.analysis.wording import counted
from leapverify.io import records
from leapverify.io.records import RaceRun
from leapverify.io.yaml_file import read_yaml
from leapverify.report.bench.page import BenchReport, load_bench
from leapverify.report.bench.tables import attempts_column, claims_table, persistence_column, said_once
from leapverify.report.kit import columns as c
from leapverify.report.kit.table import Cell, Column, Table
from leapverify.report.kit.words import words

COLUMNS = (
    Column("#", cell=lambda place: Cell(f"{place.rank or ''}", kind="number", fields={"rank": place.rank})),
    c.estimate("paired, %", "paired_percent", "headline.accepted", ".0f", scale=100.0),
    c.estimate("verified value, steps", "verified_value", "headline.verified_value", "+.2f"),
    persistence_column("persistence", "headline"),
    attempts_column("attempts", "headline"),
)
"""What is said of a predictor in each task."""


def combine(runs: Sequence[Path], races: Sequence[Path] = ()) -> str:
    """The benches of several run folders as Markdown: the combined leaderboard, then each task's claims.

    Args:
        runs: run folders that hold a bench.
        races: run folders of races whose arms `always:NAME` and `leap:NAME` say more, each of the benches of its
            tasks.

    Raises:
        ValueError: no folder, one without a bench, or a file that is damaged; the message names it.
    """
    reports = load_benches(runs, races)
    tables = [combined_table(reports), *(claims_table(report.bench, report.judged) for report in reports)]
    titled = [tables[0], *(replace(table, heading=f"{table.heading}: {report.bench.label}")
                           for table, report in zip(tables[1:], reports, strict=True))]  # fmt: skip
    return "\n".join(table.to_markdown() for table in titled)


def load_benches(runs: Sequence[Path], races: Sequence[Path] = ()) -> list[BenchReport]:
    """The benches of several run folders, each called by its task, and by its folder where a task occurs twice.

    Raises:
        ValueError: no folder, one without a bench, or a race's without its runs.
    """
    if not runs:
        raise ValueError("no run folder was named: name one or more that hold a bench")
    found = [_load(Path(path)) for path in runs]
    tasks = Counter(report.bench.task for report in found)
    raced_runs = [row for path in races for row in _runs_of(Path(path))]
    named = []
    for path, report in zip(runs, found, strict=True):
        task = report.bench.task
        label = task if tasks[task] == 1 else f"{task} {Path(path).resolve().name}"
        known = {**report.races, **raced(raced_runs, task)}
        named.append(replace(report, bench=replace(report.bench, label=label), races=known))
    return named


def _runs_of(path: Path) -> Sequence[RaceRun]:
    file = path / "race" / "runs.parquet"
    if not file.is_file():
        raise ValueError(f"{path} holds no race: run leapverify race --predictors NAMES --out {path} first")
    return records.read(file, RaceRun)


def _load(path: Path) -> BenchReport:
    file = path / "config.yaml"
    config = read_yaml(file, "put back a copy of it") if file.is_file() else {}
    report = load_bench(path, config)
    if report is None:
        raise ValueError(f"{path} holds no bench: run leapverify bench predictors {path} first")
    return report


def combined_table(reports: Sequence[BenchReport]) -> Table:
    """One row a predictor, the tasks as groups of columns; the best mean rank first, controls last."""
    places = [{place.predictor: place for place in report.places} for report in reports]
    names = sorted({name for of_task in places for name in of_task}, key=lambda name: _order(name, places))
    columns = [Column("predictor", False, lambda name: _name(name, places))]
    for report, of_task in zip(reports, places, strict=True):
        groups = {name: _cells(report.bench.label, of_task.get(name)) for name in names}
        for index, column in enumerate(COLUMNS):
            label = f"{report.bench.label}: {column.label}"
            columns.append(Column(label, cell=functools.partial(_nth, groups, index)))
    where = "; ".join(
        f"{report.bench.label}: K = {report.bench.headline_steps}, {counted(len(report.bench.seeds), 'seed')}"
        for report in reports
    )
    return words("bench").table("bench-combined", columns, names, keys=0, where=where)


def _nth(groups: Mapping[str, Sequence[Cell]], index: int, name: str) -> Cell:
    return groups[name][index]


def _order(name: str, places: Sequence[Mapping[str, Place]]) -> tuple[bool, int, float, str]:
    """Controls last, then by the tasks in which it pays, then by the mean rank; where it has none it counts as last.

    Ranks alone would put what is refused at once, and therefore costs little, before what sometimes pays.
    """
    control = any(name in of_task and of_task[name].headline.control for of_task in places)
    ranks = [_rank(of_task.get(name), len(of_task)) for of_task in places]
    lows = [of_task[name].headline.verified_value.low for of_task in places if name in of_task]
    return control, -sum(low is not None and low > 0 for low in lows), statistics.fmean(ranks), name


def _rank(place: Place | None, last: int) -> int:
    return last if place is None or place.rank is None else place.rank


def _name(name: str, places: Sequence[Mapping[str, Place]]) -> Cell:
    control = any(name in of_task and of_task[name].headline.control for of_task in places)
    return Cell(f"{name} (control)" if control else name, kind="heading", fields={"predictor": name})


def _cells(label: str, place: Place | None) -> Sequence[Cell]:
    """One predictor's cells in one task's columns, whose CSV fields begin with the task's label."""
    if place is None:
        return [Cell("not benched", kind="why")] * len(COLUMNS)
    return [
        replace(cell, fields={f"{label}_{key}": value for key, value in cell.fields.items()})
        for cell in said_once([column.cell(place) for column in COLUMNS])
    ]
