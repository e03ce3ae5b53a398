"""How far a leap may go along the schedule: to where it begins its final decay, ends, or turns up again.

Looking ahead costs some microseconds a step. So the rates that were found are kept, and the schedule is looked at again
only when half of them are used up, when the limit is reached, or when the present rates differ from the kept ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import dropwhile
from typing import Any, TypeAlias

from leapverify.leap.schedule.advance import decaying

Look: TypeAlias = Callable[[int], tuple[list[list[float]], int | None]]
"""The rates of so many steps for each parameter group, that of the coming step first, and the steps that may follow
before the schedule ends, where that was seen."""

NEAR, FAR = 8, 64
"""Intervals that are looked ahead at first and at most."""
MOST = 4096
"""Steps that are looked ahead at most, unless a leap is to go further."""
USABLE = 0.5
"""Share of the rates found that may be used up before the next look."""
SAME = 1e-6
"""Rates nearer to one another than this share are equal."""
TURN = 1e-3
"""A fall and the rise after it are a turn if both exceed this share of the rate."""
ZERO = 1e-9
"""A rate below this share of the highest is 0."""


def limit(
    column: Sequence[float], highest: float, interval: int, *, leap_in_decay: bool = False, end: int | None = None
) -> int | None:
    """Steps until one group's schedule does what no leap may pass; None if it does nothing of the kind.

    Args:
        column: rates, that of the coming step first.
        highest: rate of the run so far.
        interval: Delta, steps over which a decay is told.
        leap_in_decay: the final decay may be leapt into; a rate of 0, a turn and the end still may not be passed.
        end: steps after which the schedule ends.

    Returns:
        The least i at which the rate is in its final decay by the rule of `decaying`, is 0 after it was not, or is the
        last before it turns up after a fall, or which is the end.
    """
    found = [_last_before_turn(column), _first_zero(column, highest), end]
    if not leap_in_decay:
        found.append(_first_decay(column, highest, interval))
    return min((each for each in found if each is not None), default=None)


@dataclass(frozen=True, slots=True)
class LookaheadWindow:
    """The rates that one look ahead has found; steps are effective ones."""

    begin: int
    """The step to which the first rates belong."""
    columns: list[list[float]]
    """Rates from that step on, each list once."""
    groups: list[int]
    """Which of them each parameter group follows."""
    bound: int
    """The step that no leap may pass."""
    event: bool
    """Whether the schedule ends, decays, turns or is 0 there; False: nothing was looked at beyond."""
    reach: int
    """Steps that were looked ahead."""
    leap_in_decay: bool

    def covers(self, step: int, groups: int) -> bool:
        """Whether so many groups' rates of a step were seen."""
        return groups == len(self.groups) and 0 <= step - self.begin < len(self.columns[0])

    def agrees_with(self, step: int, rates: Sequence[float]) -> bool:
        """Whether these are the rates that were found for a step."""
        seen = [column[step - self.begin] for column in self.columns]
        return all(
            math.isclose(seen[group], rate, rel_tol=SAME) for group, rate in zip(self.groups, rates, strict=True)
        )

    def highest(self, step: int) -> list[float]:
        """The highest rate of each group up to a step."""
        found = [max(column[: step - self.begin + 1]) for column in self.columns]
        return [found[group] for group in self.groups]

    def passed_zero(self, step: int, highest: Sequence[float]) -> bool:
        """Whether at some step up to this one all groups' rates were 0 again; a warm-up may begin with 0."""
        if step < self.bound:
            return False
        rows = zip(*(self.columns[group][: step - self.begin + 1] for group in self.groups), strict=True)
        return any(all(map(_is_zero, row, highest)) for row in dropwhile(lambda row: not any(row), rows))


class ScheduleLookahead:
    """Counts the steps until the schedule does what no leap may pass; looks ahead as seldom as that allows.

    Args:
        interval: Delta, real steps between checkpoints.
    """

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._reach = 0
        self._window: LookaheadWindow | None = None
        self.highest: list[float] = []
        """Rate of the run so far, for each parameter group."""
        self.over = False
        """Whether all rates have been 0. Rates after that, such as those of a CosineAnnealingLR that rises again, were
        not meant for training."""

    def until(
        self,
        effective: int,
        present: Sequence[float],
        look: Look,
        *,
        ahead: int = 0,
        leap_in_decay: bool = False,
        least: int = 0,
    ) -> int:
        """Steps from now until the final decay, a rate of 0, a turn, the end, or the end of what was looked at.

        Args:
            effective: t, effective steps so far.
            present: the rate that each group holds.
            look: looks ahead.
            ahead: 1 if the present rates are those of the last step, 0 if they are those of the coming one.
            leap_in_decay: the final decay does not count.
            least: steps that have to be looked ahead at least, if nothing is to happen before.
        """
        held = effective - ahead
        kept = self._window if self._window is not None and self._window.covers(held, len(present)) else None
        if kept is not None and not kept.agrees_with(held, present):
            # The schedule has changed: look ahead a short way first.
            kept, self._reach, self.over = None, 0, False
        self._rise(present if kept is None else kept.highest(held))
        self.over = self.over or (kept is not None and kept.event and kept.passed_zero(held, self.highest))
        if kept is None or not self._serves(kept, effective, leap_in_decay, least):
            kept = self._window = self._look(effective, present, look, ahead, leap_in_decay, least)
        return 0 if self.over else max(0, kept.bound - effective)

    def in_decay(self, columns: Sequence[Sequence[float]]) -> bool:
        """Whether a group's rate is in its final decay now.

        Args:
            columns: for each group the rates of one interval and the step after it, that of the coming step first.
        """
        self._rise([column[0] for column in columns])
        return any(
            decaying(column[0], column[-1], highest)
            for column, highest in zip(columns, self.highest, strict=True)
            if _is_live(column, columns)
        )

    def state_dict(self) -> dict[str, Any]:
        """The rates found, and the highest ones, as JSON values."""
        return {
            "reach": self._reach,
            "highest": list(self.highest),
            "over": self.over,
            "sight": None if self._window is None else asdict(self._window),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._reach, self.highest, self.over = int(state["reach"]), list(state["highest"]), bool(state["over"])
        self._window = None if state["sight"] is None else LookaheadWindow(**state["sight"])

    def _look(
        self, effective: int, present: Sequence[float], look: Look, ahead: int, leap_in_decay: bool, least: int
    ) -> LookaheadWindow:
        # Nearby first: within a decay nothing further is of interest, and this is asked at every checkpoint.
        reach = 0
        bound, columns = self._bound(look, reach, leap_in_decay)
        if bound is None:
            reach = self._next_reach(least)
            bound, columns = self._bound(look, reach, leap_in_decay)
        if ahead:
            columns = [[now, *column] for now, column in zip(present, columns, strict=True)]
        distinct = list(dict.fromkeys(map(tuple, columns)))
        place = {column: i for i, column in enumerate(distinct)}
        return LookaheadWindow(
            begin=effective - ahead,
            columns=[list(column) for column in distinct],
            groups=[place[tuple(column)] for column in columns],
            bound=effective + (reach if bound is None else bound),
            event=bound is not None,
            reach=reach,
            leap_in_decay=leap_in_decay,
        )

    def _bound(self, look: Look, reach: int, leap_in_decay: bool) -> tuple[int | None, list[list[float]]]:
        """The nearest limit of any group within reach."""
        columns, end = look(reach + self._interval + 1)
        pairs = dict.fromkeys(
            (tuple(column), highest)
            for column, highest in zip(columns, self.highest, strict=True)
            if _is_live(column, columns)
        )
        found = [
            limit(column, highest, self._interval, leap_in_decay=leap_in_decay, end=end) for column, highest in pairs
        ]
        bound = min((each for each in found if each is not None and each <= reach), default=None)
        return bound, columns

    def _next_reach(self, least: int) -> int:
        """Twice as far as the last time, if nothing has happened as far as that."""
        if self._window is not None and not self._window.event:
            self._reach *= 2
        most = max(2 * self._interval, min(FAR * self._interval, MOST - self._interval - 1))
        self._reach = min(most, max(NEAR * self._interval, self._reach))
        return max(self._reach, math.ceil(least / USABLE))

    def _serves(self, kept: LookaheadWindow, effective: int, leap_in_decay: bool, least: int) -> bool:
        if kept.leap_in_decay != leap_in_decay:
            return False
        left = kept.bound - effective
        return left > 0 if kept.event else left >= max(USABLE * kept.reach, least)

    def _rise(self, rates: Sequence[float]) -> None:
        before = [*self.highest, *[0.0] * len(rates)]
        self.highest = [max(now, then) for now, then in zip(rates, before, strict=False)]


def _is_live(column: Sequence[float], columns: Sequence[Sequence[float]]) -> bool:
    """Whether a group is trained at all; frozen ones do not count beside others."""
    return any(column) or not any(map(any, columns))


def _is_zero(rate: float, highest: float) -> bool:
    return rate <= ZERO * highest


def _first_decay(column: Sequence[float], highest: float, interval: int) -> int | None:
    for i, (now, later) in enumerate(zip(column, column[interval:], strict=False)):
        highest = max(highest, now)
        if decaying(now, later, highest):
            return i
    return None


def _first_zero(column: Sequence[float], highest: float) -> int | None:
    for i, rate in enumerate(column):
        if _is_zero(rate, highest) and highest > 0.0:
            return i
        highest = max(highest, rate)
    return None


def _last_before_turn(column: Sequence[float]) -> int | None:
    """The lowest point, if the rate rises from it after having fallen to it; a rise without a fall is a warm-up."""
    peak, trough, place = -math.inf, math.inf, 0
    for i, rate in enumerate(column):
        if rate <= trough:
            trough, place = rate, i
        elif rate > (1.0 + TURN) * trough:
            if trough < (1.0 - TURN) * peak:
                return place
            trough, place = rate, i
        peak = max(peak, rate)
    return None
