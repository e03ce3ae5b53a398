"""The tables of a race: what decides, annealing against WSD, every arm, and the tuning grids.

A table's columns are data: heading, whether it holds numbers, and the cell of a row.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from leapverify.analysis.race.anneal import AnnealRow
from leapverify.analysis.race.arms import ArmRow, ControlRow, RaceCase, case_of
from leapverify.analysis.race.judge import Judgement
from leapverify.analysis.race.race import RaceAnalysis
from leapverify.analysis.race.tuning import TuningRow
from leapverify.analysis.race.wording import IN_NATS
from leapverify.analysis.wording import p_text
from leapverify.report.kit import cells as c
from leapverify.report.kit import columns as k
from leapverify.report.kit import table as t
from leapverify.report.kit.table import SPREAD, Cell, Column, Table, table

PAIRED = (
    "Differences are paired by seed, arm less opponent, so below 0 is better for the arm; p is one-sided (lower), by "
    "the exact sign-flip test up to 14 seeds, Student's t beyond."
)
RATIOS = (
    "× is a ratio of costs to the target, paired by seed, geometric mean over the seeds where both reached it, so "
    "below 1 is better for the arm; seeds that never reached it are counted beside it. Forward tokens: a step costs "
    "three times its positions, and everything that the tool does is charged. Seconds depend on what else the machine "
    "did: trust the tokens first."
)


def case_cell(name: str, case: RaceCase) -> Cell:
    """The cell that names a race."""
    return Cell(name, kind="heading", fields=case._asdict())


def arm_fields(case: RaceCase, key: str, name: str) -> Mapping[str, str]:
    """CSV fields of an arm (or predictor) of a case."""
    return {"task": case.task, "optimizer": case.optimizer, "rate_of": case.rate, key: name}


def file_name(kind: str, case: RaceCase) -> str:
    """The name of a case's table; names come from the records: nothing but letters, digits and hyphens is kept."""
    return f"race-{kind}-" + (re.sub(r"[^a-z0-9]+", "-", "-".join(case).lower())[:80].strip("-") or "case")


def multiplicity(race: RaceAnalysis) -> str:
    """What the number of tests means for each p."""
    return f"p-values are not corrected; the race makes {race.comparisons} comparisons."


def race_tables(race: RaceAnalysis) -> list[Table]:
    """Every table of a race, those of the arms one for each case."""
    return [leaps(race), annealing(race), *arms(race), tuning(race)]


Leap = tuple[ControlRow, ArmRow, Judgement | None]


def leaps(race: RaceAnalysis) -> Table:
    """Each leap arm against its shortened schedule, the baseline and the best of what else one could do."""
    judged = {(row.case, row.arm): row for row in race.judgements}
    known = {(row.case, row.arm): row for row in race.arms}
    keys = [(control, (control.case, control.arm)) for control in race.controls]
    rows: list[Leap] = [(control, known[key], judged.get(key)) for control, key in keys]
    columns = [
        Column("race", False, lambda row: case_cell(race.names[row[0].case], row[0].case)),
        Column("arm", False, lambda row: t.name("arm", row[0].arm)),
        Column("verdict", False, lambda row: t.text("verdict", _word(row[2]))),
        Column("real steps", True, lambda row: _real_steps(row[0])),
        Column("final loss against its shortened schedule", True, lambda row: _control(row[0])),
        Column("tokens, × baseline", True, lambda row: c.ratio("baseline_tokens", row[1].tokens)),
        Column("seconds, × baseline", True, lambda row: c.ratio("baseline_seconds", row[1].seconds)),
        Column("best larger rate or average", False, lambda row: _rival(row[2])),
        Column(
            "tokens, × that", True, lambda row: c.ratio("rival_tokens", row[2].against_rival) if row[2] else Cell("")
        ),
    ]
    note = (
        "The decisive control is the baseline's own schedule shortened to the real steps that the arm took, same seed, "
        "same batches; where the arm leapt over nothing, that is the baseline itself. Pays: beats that control, the "
        "baseline and the best larger rate or average, each with an interval that excludes no effect. always-accept is "
        "itself a control: it takes every prediction. "
        f"{PAIRED} {RATIOS} {multiplicity(race)}"
    )
    return table("race-leaps", "Does leaping pay?", note, columns, rows)


def _word(found: Judgement | None) -> str:
    if found is None:
        return "a control"
    return "cannot say" if found.unsure else "pays" if found.pays else "does not pay"


def _real_steps(control: ControlRow) -> Cell:
    fewest, most = control.real_steps
    shown = f"{fewest} to {most}" if fewest != most else str(fewest)
    return Cell(f"{shown} of {control.steps}", "", "number", {"real_steps_min": fewest, "real_steps_max": most})


def _control(row: ControlRow) -> Cell:
    cell = c.difference("against_shortened", row.difference, "+.4f")
    extra = [f"{row.unleapt} without a leap"] if row.unleapt else []
    extra += [f"not run on {row.absent}"] if row.absent else []
    fields = {**cell.fields, "against_shortened_unleapt": row.unleapt, "against_shortened_absent": row.absent}
    return replace(cell, below="; ".join(filter(None, [cell.below, *extra])), fields=fields)


def _rival(found: Judgement | None) -> Cell:
    return t.text("rival", found.rival or "none was run") if found else Cell("")


def _rival_tokens(found: Judgement | None) -> Cell:
    return c.ratio("rival_tokens", found.against_rival) if found else Cell("")


def annealing(race: RaceAnalysis) -> Table:
    """Steps that annealing a constant rate saves over WSD."""
    columns = [
        Column("race", False, lambda row: case_cell(race.names[row.case], row.case)),
        k.number("seeds", "seeds", "n"),
        Column("got there", True, lambda row: c.share("reached", row.reached, row.n)),
        k.number("WSD's steps", "wsd_steps", lambda row: row.wsd_steps or None, why=_why),
        k.spread("steps saved", "steps_saved", "saved", "+.1f", why=_why),
        Column("p, fewer steps", True, _anneal_p),
        Column("tokens, × WSD", True, lambda row: c.ratio("tokens", row.tokens)),
        Column(
            "loss there against WSD shortened to as many steps",
            True,
            lambda row: c.difference("against_shortened_wsd", row.control, "+.4f"),
        ),
    ]
    gaps = sorted({row.resolution for row in race.annealing if row.resolution})
    apart = f"Readings lie {' or '.join(map(str, gaps))} steps apart, which is the resolution. " if gaps else ""
    note = (
        "Constant rate + anneal against the tuned WSD schedule: the first real step at which the annealed loss was at "
        "or below the same seed's final WSD loss. A seed that never got there counts in the test as having lost as "
        f"many steps as the best seed saved. {apart}The cost of annealing at every reading is charged. "
        f"{SPREAD} {PAIRED}"
    )
    return table("race-anneal", "Annealing against WSD", note, columns, race.annealing)


def _why(row: AnnealRow) -> str:
    return row.reason or ""


def _anneal_p(row: AnnealRow) -> Cell:
    p = None if row.reason else row.p
    cell = t.number("p", p, ".2g", row.reason or "")
    return cell if p is None else replace(cell, text=p_text(p))


def arms(race: RaceAnalysis) -> list[Table]:
    """One table for each case: every arm."""
    found: dict[str, Table] = {}
    for case in race.by_case:
        slug = file_name("arms", case)
        name = slug if slug not in found else f"{slug}-{len(found)}"
        found[name] = _arms(race, case, [row for row in race.arms if row.case == case], name)
    return list(found.values())


def _arms(race: RaceAnalysis, case: RaceCase, rows: Sequence[ArmRow], name: str) -> Table:
    form = c.loss_form(rows)
    target = rows[0].target
    unit = "nats per token" if case.task in IN_NATS else "the task's own unit"
    stated = "was not recorded" if target is None else f"is {target:{form}}, stated before any seed was raced"
    gap = _gap(race, case)
    apart = f" Readings lie {gap} steps apart, which is its resolution." if gap else ""
    note = f"Reported loss in {unit}. The target {stated}.{apart} "
    first = next(iter(race.by_case))
    if case == first:
        note += (
            f"{SPREAD} Attempts and accepted leaps are of all seeds together, steps and batches means over seeds, "
            "passes the most of any seed. Overhead is the tool's share of the run's own cost. "
            f"{PAIRED} {RATIOS} {multiplicity(race)}"
        )
    else:
        note += f"Read it as the table of {race.names[first]}."
    return table(name, f"Every arm: {race.names[case]}", note, _arm_columns(form), rows, keys=0)


def _arm_columns(form: str) -> list[Column]:
    def final(row: ArmRow) -> Cell:
        return c.failed(t.spread("final_loss", row.final, form), "final_loss", row.nonfinite)

    def to_target(row: ArmRow) -> Cell:
        beyond = f"beyond the end for {row.n - row.reached} of {row.n} seeds" if row.reached else "never reached"
        return t.number("tokens_to_target", row.tokens_to_target, ".3g", beyond)

    def passes(row: ArmRow) -> Cell:
        fresh = "every batch is a new one" if row.heldout_batches else "none drawn"
        return t.number("heldout_passes", row.heldout_passes, ".3g", fresh)

    def overhead(key: str) -> Callable[[ArmRow], Cell]:
        return lambda row: c.overhead(f"{key}_percent", getattr(row, key).mean, getattr(row, f"{key}_max"))

    return [
        Column("arm", False, lambda row: Cell(row.arm, kind="heading", fields=arm_fields(row.case, "arm", row.arm))),
        k.number("rate", "lr", form=".3g"),
        k.text("setting", "setting"),
        Column("final loss", True, final),
        Column("against the baseline", True, lambda row: c.difference("difference", row.difference, f"+{form}")),
        Column("reached the target", True, lambda row: c.share("reached", row.reached, row.n)),
        Column("tokens to it, median", True, to_target),
        Column("tokens, × baseline", True, lambda row: c.ratio("tokens", row.tokens)),
        Column("seconds, × baseline", True, lambda row: c.ratio("seconds", row.seconds)),
        Column("overhead, tokens", True, overhead("overhead_tokens")),
        Column("overhead, seconds", True, overhead("overhead_s")),
        k.number("real steps", "real_steps", form=".4g"),
        k.number("attempts", "attempts"),
        k.number("accepted", "accepted"),
        k.number("steps leapt", "leapt_steps", form=".4g"),
        k.number("held-out batches", "heldout_batches", form=".4g"),
        Column("passes", True, passes),
    ]


def _gap(race: RaceAnalysis, case: RaceCase) -> int | None:
    """Real steps between two readings of the case's baseline."""
    mine = (point for point in race.points if point.arm == "baseline" and point.stage == "race")
    steps = sorted({point.step for point in mine if case_of(point) == case})
    return max((b - a for a, b in itertools.pairwise(steps)), default=None)


def tuning(race: RaceAnalysis) -> Table:
    """Every learning rate and setting that was tried, and what was chosen."""
    seeds = sorted({run.seed for run in race.runs if run.stage == "tune"})
    on = f"On the tuning seeds {', '.join(map(str, seeds))}, which are not raced. " if seeds else "Nothing was tuned. "
    note = (
        f"{on}Chosen is what the race ran with, lowest what has the lowest mean where that is another. At an edge the "
        f"best may lie beyond what was tried. {SPREAD}"
    )
    if race.notes:
        note += f" Noted by the race: {'; '.join(race.notes)}."
    return table("race-tuning", "What was tuned", note, TUNING_COLUMNS, race.tuning, keys=3)


def _tuned_loss(row: TuningRow) -> Cell:
    cell = t.spread("final_loss", row.final, c.magnitude([row.final.mean]))
    return c.failed(cell, "final_loss", row.nonfinite)


def _choice(row: TuningRow) -> Cell:
    said = "chosen" if row.chosen else "lowest" if row.lowest else ""
    return Cell(said, fields={"chosen": row.chosen, "lowest": row.lowest})


TUNING_COLUMNS = [
    k.key("task"),
    k.key("optimizer"),
    k.key("schedule"),
    k.text("setting", "setting"),
    k.number("rate", "lr", form=".3g"),
    Column("final loss", True, _tuned_loss),
    Column("choice", False, _choice),
    k.text("at an edge", "edge"),
]
