"""The tables of a race's predictors: each against the schedule shortened to its real steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from leapverify.analysis.race.arms import RaceCase
from leapverify.analysis.race.predictors import CONTROL_PREDICTORS, PredictorRow, PredictorTrial, short_name
from leapverify.analysis.race.race import RaceAnalysis
from leapverify.analysis.race.wording import IN_NATS
from leapverify.report.kit import cells as c
from leapverify.report.kit import table as t
from leapverify.report.kit.table import Cell, Column, Table, table
from leapverify.report.race.tables import PAIRED, arm_fields, file_name, multiplicity

HEADING = "Predictors of the literature: against the shortened schedule"


def predictor_tables(race: RaceAnalysis) -> list[Table]:
    """One table for each case in which predictors were raced."""
    cases = list(dict.fromkeys(row.case for row in race.predictors))
    found = []
    for case in cases:
        rows = [row for row in race.predictors if row.case == case]
        note = _note(race, case, rows, first=case == cases[0])
        found.append(
            table(file_name("predictors", case), f"{HEADING}, {race.names[case]}", note, COLUMNS, rows, keys=0)
        )
    return found


def _note(race: RaceAnalysis, case: RaceCase, rows: Sequence[PredictorRow], *, first: bool) -> str:
    unit = "nats per token" if case.task in IN_NATS else "the task's own unit"
    steps = max(each.control.steps for row in rows for each in (row.verified, row.always) if each is not None)
    note = f"Final reported loss in {unit}, runs of {steps} steps. "
    if not first:
        return f"{note}Read it as the first of these tables. {multiplicity(race)}"
    return (
        f"{note}Each predictor leaps by one interval at every checkpoint: verified, where the paired test accepts it; "
        "always, unconditionally, as the published methods apply themselves. The control is the baseline's own "
        "schedule shortened to the real steps that the arm took, same seed, same batches: a leap that does not end "
        "lower than that has saved nothing. hold moves no weight: what it shows, any leap does by advancing the "
        "schedule alone. lower, higher: the interval excludes no difference; open: it does not. "
        "Accepted: of the attempts of all seeds together, those that declined left out. Steps leapt: mean over seeds. "
        f"{PAIRED} {multiplicity(race)}"
    )


def _name(row: PredictorRow) -> Cell:
    control = "a control" if row.predictor in CONTROL_PREDICTORS else ""
    return Cell(short_name(row.predictor), control, "heading", arm_fields(row.case, "predictor", row.predictor))


TrialCell = Callable[[str, PredictorTrial], Cell]


def _of(way: str, cell: TrialCell, missing: Cell) -> Callable[[PredictorRow], Cell]:
    """The cell of one way to apply a predictor, and the one where that was not run."""

    def shown(row: PredictorRow) -> Cell:
        trial = row.verified if way == "verified" else row.always
        return missing if trial is None else cell(way, trial)

    return shown


def _accepted(way: str, trial: PredictorTrial) -> Cell:
    control = trial.control
    cell = c.share(f"{way}_accepted", control.accepted, control.attempts)
    fields = {**cell.fields, f"{way}_leapt_steps": trial.leapt_steps}
    if not control.attempts:
        return Cell("declined", kind="why", fields=fields)
    return replace(cell, below=f"{trial.leapt_steps:.3g} steps leapt" if control.accepted else "", fields=fields)


def _difference(way: str, trial: PredictorTrial) -> Cell:
    control, base = trial.control, trial.baseline
    cell = c.difference(f"{way}_against_shortened", control.difference, "+.4f")
    fields = {**cell.fields, f"{way}_against_baseline": base.mean, f"{way}_against_baseline_p": base.p}
    if not control.accepted:
        return Cell("", fields=fields)
    extra = [f"{control.unleapt} of {control.n} without a leap"] if control.unleapt else []
    extra += [f"not run on {control.absent}"] if control.absent else []
    return replace(cell, below="; ".join(filter(None, [cell.below, *extra])), fields=fields)


def _word(way: str, trial: PredictorTrial) -> Cell:
    return t.text(f"{way}_that_is", trial.word)


def _columns(way: str) -> list[Column]:
    return [
        Column(f"{way}: accepted", True, _of(way, _accepted, Cell("not run", kind="why"))),
        Column("final loss − shortened's", True, _of(way, _difference, Cell(""))),
        Column("that is", False, _of(way, _word, Cell(""))),
    ]


COLUMNS = [Column("predictor", False, _name), *_columns("verified"), *_columns("always")]
