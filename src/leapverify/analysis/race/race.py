"""What the records of a race say, each part worked out once for tables, figure and sentences.

Every number comes with n and an interval over seeds, or the reason why there is none. p-values are one-sided, paired by
seed, and not corrected for the number of comparisons, which `comparisons` gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from leapverify.analysis.race.anneal import AnnealRow, anneal_against_wsd
from leapverify.analysis.race.arms import (
    ArmRow,
    Arms,
    ControlRow,
    RaceCase,
    against_shortened,
    arm_table,
    by_case,
    case_text,
)
from leapverify.analysis.race.judge import Judgement, judge
from leapverify.analysis.race.predictors import PredictorRow, against_schedule
from leapverify.analysis.race.tuning import TuningRow, tuning_grid
from leapverify.io.records import RacePoint, RaceRun

BUDGET_PERCENT = 1.0


@dataclass(frozen=True)
class RaceAnalysis:
    """The analyses of one race."""

    runs: Sequence[RaceRun]
    """The race's records, tuning included."""
    points: Sequence[RacePoint] = ()
    """The readings of the reported loss; without them nothing can be said of annealing."""
    budget_percent: float = BUDGET_PERCENT
    """Of the whole cost, what `leap-auto` was allowed to spend."""
    notes: Sequence[str] = ()
    """What the race itself noted."""

    @cached_property
    def by_case(self) -> Mapping[RaceCase, Arms]:
        """The races in order, and their runs; those of predictors are left out."""
        return by_case(self.runs)

    @cached_property
    def names(self) -> Mapping[RaceCase, str]:
        """What each case is called, predictors' included."""
        return {case: case_text(case, self.runs) for case in by_case(self.runs, predictors=True)}

    @cached_property
    def arms(self) -> Sequence[ArmRow]:
        """Every arm of every case."""
        return arm_table(self.runs)

    @cached_property
    def controls(self) -> Sequence[ControlRow]:
        """Leap arms against their shortened schedules."""
        return against_shortened(self.runs)

    @cached_property
    def judgements(self) -> Sequence[Judgement]:
        """Leap arms against all that they have to beat."""
        return judge(self.by_case, self.arms, self.controls)

    @cached_property
    def predictors(self) -> Sequence[PredictorRow]:
        """Predictors against their shortened schedules."""
        return against_schedule(self.runs)

    @cached_property
    def annealing(self) -> Sequence[AnnealRow]:
        """Annealing against WSD."""
        return anneal_against_wsd(self.runs, self.points)

    @cached_property
    def tuning(self) -> Sequence[TuningRow]:
        """The grids."""
        return tuning_grid(self.runs)

    @cached_property
    def comparisons(self) -> int:
        """How many p-values the race gives: every arm against the baseline, every control, annealing, predictors."""
        found = [row.difference.p for row in self.arms] + [row.difference.p for row in self.controls]
        trials = [each for row in self.predictors for each in (row.verified, row.always) if each is not None]
        found += [each.control.difference.p for each in trials if each.control.accepted]
        for row in self.annealing:
            found += [None if row.reason else row.p, row.control.p]
        return sum(p is not None for p in found)
