"""The tables of a race's predictors: each against the schedule shortened to its real steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from leapverify.analysis.race.api import CONTROL_PREDICTORS, Case, PredictorRow, Tried
from leapverify.analysis.race.predictors import short_name
from leapverify.analysis.race.wording import IN_NATS
from leapverify.report.kit import cells as c
from leapverify.report.kit import table as t
from leapverify.report.kit.table import Cell, Column, Table
from leapverify.report.race.tables import PAIRED, RaceAnalysis

HEADING = "Predictors of the literature: against the shortened schedule"
WAYS = ("verified", "always")
"""In which a predictor is applied, in the order of the columns."""


def predictor_tables(analysis: RaceAnalysis) -> list[Table]:
    """One table for each case in which predictors were raced."""
    cases = dict.fromkeys(row.case for row in analysis.predictors)
    return [_table(analysis, case, first=place == 0) for place, case in enumerate(cases)]


def _table(analysis: RaceAnalysis, case: Case, *, first: bool) -> Table:
    rows = [row for row in analysis.predictors if row.case == case]
    columns = [Column("predictor", False)]
    for way in WAYS:
        columns += [Column(f"{way}: accepted"), Column("final loss − shortened's")]
        columns.append(Column("that is", False))
    name = "race-predictors-" + (re.sub(r"[^a-z0-9]+", "-", "-".join(case).lower())[:80].strip("-") or "case")
    return Table(name, f"{HEADING}, {analysis.names[case]}", _note(analysis, case, rows, first), columns, _lines(rows))


def _note(analysis: RaceAnalysis, case: Case, rows: Sequence[PredictorRow], first: bool) -> str:
    unit = "nats per token" if case.task in IN_NATS else "the task's own unit"
    steps = max(each.control.steps for row in rows for each in (row.verified, row.always) if each is not None)
    note = f"Final reported loss in {unit}, runs of {steps} steps. "
    if not first:
        return f"{note}Read it as the first of these tables. {analysis.multiplicity}"
    return (
        f"{note}Each predictor leaps by one interval at every checkpoint: verified, where the paired test accepts it; "
        "always, unconditionally, as the published methods apply themselves. The control is the baseline's own "
        "schedule shortened to the real steps that the arm took, same seed, same batches: a leap that does not end "
        "lower than that has saved nothing. hold moves no weight: what it shows, any leap does by advancing the "
        "schedule alone. lower, higher: the interval excludes no difference; open: it does not. "
        "Accepted: of the attempts of all seeds together, those that declined left out. Steps leapt: mean over seeds. "
        f"{PAIRED} {analysis.multiplicity}"
    )


def _lines(rows: Sequence[PredictorRow]) -> Sequence[t.Line]:
    cells = []
    for row in rows:
        keys = dict(zip(("task", "optimizer", "rate_of", "predictor"), (*row.case, row.predictor), strict=True))
        control = "a control" if row.predictor in CONTROL_PREDICTORS else ""
        line = [Cell(short_name(row.predictor), control, "heading", keys)]
        cells.append([*line, *_tried("verified", row.verified), *_tried("always", row.always)])
    return t.grouped(cells, 0)


def _tried(way: str, found: Tried | None) -> list[Cell]:
    if found is None:
        return [Cell("not run", kind="why"), Cell(""), Cell("")]
    control = found.control
    accepted = c.share(f"{way}_accepted", control.accepted, control.attempts)
    fields = {**accepted.fields, f"{way}_leapt_steps": found.leapt_steps}
    leapt = f"{found.leapt_steps:.3g} steps leapt" if control.accepted else ""
    accepted = replace(accepted, below=leapt, fields=fields)
    if not control.attempts:
        accepted = Cell("declined", kind="why", fields=fields)
    cell = c.difference(f"{way}_against_shortened", control.difference, "+.4f")
    extra = [f"{control.unleapt} of {control.n} without a leap"] if control.unleapt and control.accepted else []
    extra += [f"not run on {control.absent}"] if control.absent else []
    below = "; ".join(filter(None, [cell.below, *extra]))
    base = found.baseline
    fields = {**cell.fields, f"{way}_against_baseline": base.mean, f"{way}_against_baseline_p": base.p}
    cell = replace(cell, below=below, fields=fields)
    if not control.accepted:
        cell = Cell("", fields=fields)
    return [accepted, cell, t.text(f"{way}_that_is", found.word)]
