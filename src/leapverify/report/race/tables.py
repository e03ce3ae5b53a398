"""The tables of a race: what decides, annealing against WSD, every arm, and the tuning grids."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from leapverify.analysis.race.api import (
    AnnealRow,
    ArmRow,
    ArmVerdict,
    Case,
    ControlRow,
    Judgement,
    PredictorRow,
    TuningRow,
    against_schedule,
    against_shortened,
    anneal_against_wsd,
    arm_table,
    case_text,
    comparisons,
    judge,
    race_verdicts,
    tuning_grid,
)
from leapverify.analysis.race.wording import IN_NATS
from leapverify.analysis.wording import p_text
from leapverify.report.kit import cells as c
from leapverify.report.kit import table as t
from leapverify.report.kit.run import RaceRecords
from leapverify.report.kit.table import SPREAD, Cell, Column, Table

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


@dataclass(frozen=True)
class RaceAnalysis:
    """Every analysis of one race, computed once for its tables, figures and sentences."""

    race: RaceRecords

    @cached_property
    def arms(self) -> Sequence[ArmRow]:
        """Every arm of every case."""
        return arm_table(self.race.runs)

    @cached_property
    def cases(self) -> Sequence[Case]:
        """The races in order."""
        return list(dict.fromkeys(row.case for row in self.arms))

    @cached_property
    def names(self) -> dict[Case, str]:
        """What each case is called."""
        return {case: case_text(case, self.race.runs) for case in self.cases}

    @cached_property
    def controls(self) -> Sequence[ControlRow]:
        """Leap arms against their shortened schedules."""
        return against_shortened(self.race.runs)

    @cached_property
    def predictors(self) -> Sequence[PredictorRow]:
        """Predictors against their shortened schedules."""
        return against_schedule(self.race.runs)

    @cached_property
    def judgements(self) -> Sequence[Judgement]:
        """Leap arms against all that they have to beat."""
        return judge(self.race.runs)

    @cached_property
    def annealing(self) -> Sequence[AnnealRow]:
        """Annealing against WSD."""
        return anneal_against_wsd(self.race.runs, self.race.points)

    @cached_property
    def tuning(self) -> Sequence[TuningRow]:
        """The grids."""
        return tuning_grid(self.race.runs)

    @cached_property
    def verdicts(self) -> Sequence[ArmVerdict]:
        """The answers."""
        overhead = self.race.setting("overhead")
        known = isinstance(overhead, (int, float)) and not isinstance(overhead, bool)
        budget = {"budget_percent": 100.0 * overhead} if known else {}
        return race_verdicts(self.race.runs, self.race.points, **budget)

    @property
    def multiplicity(self) -> str:
        """What the number of tests means for each p."""
        count = comparisons(self.race.runs, self.race.points)
        return f"p-values are not corrected; the race makes {count} comparisons."


def race_tables(analysis: RaceAnalysis) -> list[Table]:
    """Every table of a race, those of the arms one for each case."""
    return [leaps(analysis), annealing(analysis), *arms(analysis), tuning(analysis)]


def leaps(analysis: RaceAnalysis) -> Table:
    """Each leap arm against its shortened schedule, the baseline and the best of what else one could do."""
    judged = {(row.case, row.arm): row for row in analysis.judgements}
    known = {(row.case, row.arm): row for row in analysis.arms}
    rows = []
    for control in analysis.controls:
        found, row = judged.get((control.case, control.arm)), known[control.case, control.arm]
        fewest, most = control.real_steps
        shown = f"{fewest} to {most}" if fewest != most else str(fewest)
        steps = Cell(f"{shown} of {control.steps}", "", "number", {"real_steps_min": fewest, "real_steps_max": most})
        line = [_case(analysis, control.case), t.name("arm", control.arm), t.text("verdict", _word(found)), steps]
        line += [_control(control), c.ratio("baseline_tokens", row.tokens), c.ratio("baseline_seconds", row.seconds)]
        if found:
            line += [t.text("rival", found.rival or "none was run"), c.ratio("rival_tokens", found.against_rival)]
        rows.append(line + [Cell("")] * (9 - len(line)))
    columns = [Column("race", False), Column("arm", False), Column("verdict", False), Column("real steps"),
               Column("final loss against its shortened schedule"), Column("tokens, × baseline"),
               Column("seconds, × baseline"), Column("best larger rate or average", False),
               Column("tokens, × that")]  # fmt: skip
    note = (
        "The decisive control is the baseline's own schedule shortened to the real steps that the arm took, same seed, "
        "same batches; where the arm leapt over nothing, that is the baseline itself. Pays: beats that control, the "
        "baseline and the best larger rate or average, each with an interval that excludes no effect. always-accept is "
        "itself a control: it takes every prediction. "
        f"{PAIRED} {RATIOS} {analysis.multiplicity}"
    )
    return Table("race-leaps", "Does leaping pay?", note, columns, t.grouped(rows))


def _word(found: Judgement | None) -> str:
    if found is None:
        return "a control"
    return "cannot say" if found.unsure else "pays" if found.pays else "does not pay"


def annealing(analysis: RaceAnalysis) -> Table:
    """Steps that annealing a constant rate saves over WSD."""
    rows = []
    for row in analysis.annealing:
        why = row.reason or ""
        p = None if row.reason else row.p
        p_cell = t.number("p", p, ".2g", why)
        line = [
            _case(analysis, row.case),
            t.number("seeds", row.n, "d"),
            c.share("reached", row.reached, row.n),
            t.number("wsd_steps", row.wsd_steps or None, "d", why),
            t.spread("steps_saved", row.saved, "+.1f", why=why),
            p_cell if p is None else replace(p_cell, text=p_text(p)),
            c.ratio("tokens", row.tokens),
            c.difference("against_shortened_wsd", row.control, "+.4f"),
        ]
        rows.append(line)
    columns = [Column("race", False), Column("seeds"), Column("got there"), Column("WSD's steps"),
               Column("steps saved"), Column("p, fewer steps"), Column("tokens, × WSD"),
               Column("loss there against WSD shortened to as many steps")]  # fmt: skip
    gaps = sorted({row.resolution for row in analysis.annealing if row.resolution})
    apart = f"Readings lie {' or '.join(map(str, gaps))} steps apart, which is the resolution. " if gaps else ""
    note = (
        "Constant rate + anneal against the tuned WSD schedule: the first real step at which the annealed loss was at "
        "or below the same seed's final WSD loss. A seed that never got there counts in the test as having lost as "
        f"many steps as the best seed saved. {apart}The cost of annealing at every reading is charged. "
        f"{SPREAD} {PAIRED}"
    )
    return Table("race-anneal", "Annealing against WSD", note, columns, t.grouped(rows))


def arms(analysis: RaceAnalysis) -> list[Table]:
    """One table for each case: every arm."""
    found, names = [], set[str]()
    for case in analysis.cases:
        rows = [row for row in analysis.arms if row.case == case]
        # Names come from the records and become file names: nothing but letters, digits and hyphens.
        slug = "race-arms-" + (re.sub(r"[^a-z0-9]+", "-", "-".join(case).lower())[:80].strip("-") or "case")
        name = slug if slug not in names else f"{slug}-{len(names)}"
        names.add(name)
        found.append(_arms(analysis, case, rows, name))
    return found


def _arms(analysis: RaceAnalysis, case: Case, rows: Sequence[ArmRow], name: str) -> Table:
    form = c.loss_form(rows)
    target = rows[0].target
    unit = "nats per token" if case.task in IN_NATS else "the task's own unit"
    stated = "was not recorded" if target is None else f"is {target:{form}}, stated before any seed was raced"
    gap = _gap(analysis, case)
    apart = f" Readings lie {gap} steps apart, which is its resolution." if gap else ""
    columns = [Column("arm", False), Column("rate"), Column("setting", False), Column("final loss"),
               Column("against the baseline"), Column("reached the target"), Column("tokens to it, median"),
               Column("tokens, × baseline"), Column("seconds, × baseline"), Column("overhead, tokens"),
               Column("overhead, seconds"), Column("real steps"), Column("attempts"), Column("accepted"),
               Column("steps leapt"), Column("held-out batches"), Column("passes")]  # fmt: skip
    note = f"Reported loss in {unit}. The target {stated}.{apart} "
    if case == analysis.cases[0]:
        note += (
            f"{SPREAD} Attempts and accepted leaps are of all seeds together, steps and batches means over seeds, "
            "passes the most of any seed. Overhead is the tool's share of the run's own cost. "
            f"{PAIRED} {RATIOS} {analysis.multiplicity}"
        )
    else:
        note += f"Read it as the table of {analysis.names[analysis.cases[0]]}."
    lines = t.grouped([_arm(row, form) for row in rows], 0)
    return Table(name, f"Every arm: {analysis.names[case]}", note, columns, lines)


def _arm(row: ArmRow, form: str) -> list[Cell]:
    keys = dict(zip(("task", "optimizer", "rate_of", "arm"), (*row.case, row.arm), strict=True))
    beyond = f"beyond the end for {row.n - row.reached} of {row.n} seeds" if row.reached else "never reached"
    fresh = "every batch is a new one" if row.heldout_batches else "none drawn"
    return [
        Cell(row.arm, kind="heading", fields=keys),
        t.number("lr", row.lr, ".3g"),
        t.text("setting", row.setting),
        c.failed(t.spread("final_loss", row.final, form), "final_loss", row.nonfinite),
        c.difference("difference", row.difference, f"+{form}"),
        c.share("reached", row.reached, row.n),
        t.number("tokens_to_target", row.tokens_to_target, ".3g", beyond),
        c.ratio("tokens", row.tokens),
        c.ratio("seconds", row.seconds),
        c.overhead("overhead_tokens_percent", row.overhead_tokens.mean, row.overhead_tokens_max),
        c.overhead("overhead_s_percent", row.overhead_s.mean, row.overhead_s_max),
        t.number("real_steps", row.real_steps, ".4g"),
        t.number("attempts", row.attempts, "d"),
        t.number("accepted", row.accepted, "d"),
        t.number("leapt_steps", row.leapt_steps, ".4g"),
        t.number("heldout_batches", row.heldout_batches, ".4g"),
        t.number("heldout_passes", row.heldout_passes, ".3g", fresh),
    ]


def tuning(analysis: RaceAnalysis) -> Table:
    """Every learning rate and setting that was tried, and what was chosen."""
    rows = []
    for row in analysis.tuning:
        said = ["chosen"] if row.chosen else []
        said += ["lowest"] if row.lowest and not row.chosen else []
        rows.append(
            [
                t.name("task", row.task),
                t.name("optimizer", row.optimizer),
                t.name("schedule", row.schedule),
                t.text("setting", row.setting),
                t.number("lr", row.lr, ".3g"),
                c.failed(t.spread("final_loss", row.final, c.magnitude([row.final.mean])), "final_loss", row.nonfinite),
                Cell(", ".join(said), fields={"chosen": row.chosen, "lowest": row.lowest}),
                t.text("edge", row.edge),
            ]
        )
    names = [Column(name, False) for name in ("task", "optimizer", "schedule", "setting")]
    columns = [*names, Column("rate"), Column("final loss"), Column("choice", False), Column("at an edge", False)]
    seeds = sorted({run.seed for run in analysis.race.runs if run.stage == "tune"})
    on = f"On the tuning seeds {', '.join(map(str, seeds))}, which are not raced. " if seeds else "Nothing was tuned. "
    note = (
        f"{on}Chosen is what the race ran with, lowest what has the lowest mean where that is another. At an edge the "
        f"best may lie beyond what was tried. {SPREAD}"
    )
    if analysis.race.notes:
        note += f" Noted by the race: {'; '.join(analysis.race.notes)}."
    return Table("race-tuning", "What was tuned", note, columns, t.grouped(rows, 3))


def _case(analysis: RaceAnalysis, case: Case) -> Cell:
    return Cell(analysis.names[case], kind="heading", fields=case._asdict())


def _control(row: ControlRow) -> Cell:
    cell = c.difference("against_shortened", row.difference, "+.4f")
    extra = [f"{row.unleapt} without a leap"] if row.unleapt else []
    extra += [f"not run on {row.absent}"] if row.absent else []
    fields = {**cell.fields, "against_shortened_unleapt": row.unleapt, "against_shortened_absent": row.absent}
    return replace(cell, below="; ".join(filter(None, [cell.below, *extra])), fields=fields)


def _gap(analysis: RaceAnalysis, case: Case) -> int | None:
    """Real steps between two readings of the case's baseline."""
    mine = [
        point
        for point in analysis.race.points
        if point.arm == "baseline" and point.stage == "race" and (point.task, point.optimizer, point.rate) == case
    ]
    steps = sorted({point.step for point in mine})
    return max((b - a for a, b in itertools.pairwise(steps)), default=None)
