"""Does leaping pay? Each leap arm against everything that it has to beat before one may say so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from leapverify.analysis.over_seeds import FEWEST_SEEDS
from leapverify.analysis.race.arms import (
    BASELINE,
    ArmRow,
    Arms,
    ControlRow,
    RaceCase,
    cost_ratio,
    is_leap,
)
from leapverify.analysis.race.paired import Ratio, no_ratio

RIVALS = ("lr-x2", "lr-x4", "ema", "lawa", "lookahead", "schedule-free")
"""Larger rates and averages: what anybody could do instead of leaping."""
HEADLINE = "leap-auto"
"""The policy that is judged first, named before any race was run: it is the default."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One leap arm in one case, with every comparison that its verdict rests on."""

    case: RaceCase
    arm: str
    row: ArmRow
    control: ControlRow
    rival: str | None
    """The best larger rate or average: the fewest median tokens to the target, then the lowest final loss."""
    against_rival: Ratio
    """Forward tokens to the target."""

    @property
    def beats_baseline(self) -> bool:
        """Whether it reaches the target with fewer forward tokens than the baseline, beyond doubt."""
        return self.row.tokens.lower and self.row.tokens.seeds == self.row.n

    @property
    def beats_control(self) -> bool:
        """Whether it ends lower than the same schedule shortened to its real steps, beyond doubt."""
        return self.control.beaten

    @property
    def beats_rival(self) -> bool:
        """Whether it needs fewer forward tokens than the best larger rate or average, beyond doubt."""
        return self.against_rival.lower and self.against_rival.seeds == self.row.n

    @property
    def slower(self) -> bool:
        """Whether it takes more seconds to the target than the baseline, beyond doubt."""
        return self.row.seconds.higher

    @property
    def unsure(self) -> str | None:
        """Why no verdict can be drawn; None if one can. What fails to beat one opponent needs no other to be judged."""
        if self.row.n < FEWEST_SEEDS:
            few = f"{self.row.n} seeds bear" if self.row.n != 1 else "1 seed bears"
            return f"{few} no verdict, which takes at least {FEWEST_SEEDS}"
        if not self.row.tokens.seeds:
            return f"no {BASELINE} was run on its seeds"
        if not self.beats_baseline:
            return None
        if self.control.difference.mean is None and not self.control.difference.arm_failed:
            return self.control.difference.reason
        if self.beats_control and not self.rival:
            return "no larger learning rate and no average was run beside it"
        return None

    @property
    def pays(self) -> bool:
        """Whether it beats the control, the baseline and the rival, and no seconds speak against it."""
        beaten = self.beats_control and self.beats_baseline and self.beats_rival
        return beaten and not self.unsure and not self.slower


def judge(cases: Mapping[RaceCase, Arms], arms: Iterable[ArmRow], controls: Iterable[ControlRow]) -> list[Judgement]:
    """Every leap arm of every case, `leap-auto` first in its case.

    Args:
        cases: the runs, as `by_case` orders them.
        arms: their table.
        controls: the arms against their shortened schedules.

    Returns:
        The judgements; a case without a leap arm has none.
    """
    rows = {(row.case, row.arm): row for row in arms}
    short = {(row.case, row.arm): row for row in controls}
    found = []
    for case, runs in cases.items():
        rival = best_rival(rows[case, arm] for arm in runs)
        for arm in sorted(filter(is_leap, runs), key=lambda name: name != HEADLINE):
            against = no_ratio("no larger rate and no average was run")
            if rival:
                against = cost_ratio("target_tokens", runs[arm], runs[rival], "no seed was run with both")
            found.append(Judgement(case, arm, rows[case, arm], short[case, arm], rival, against))
    return found


def best_rival(rows: Iterable[ArmRow]) -> str | None:
    """The best of the larger rates and averages among the arms of one case; None where none was run.

    It is picked on the race's own seeds, which flatters it: what beats it beats a strong opponent.
    """
    rivals = [row for row in rows if row.arm in RIVALS]
    return min(rivals, key=_strength).arm if rivals else None


def _strength(row: ArmRow) -> tuple[float, bool, float]:
    tokens = math.inf if row.tokens_to_target is None else row.tokens_to_target
    return tokens, row.nonfinite > 0, math.inf if row.final.mean is None else row.final.mean
