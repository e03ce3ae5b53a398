"""Which schedulers move once per optimizer step: only those can be looked ahead with, and moved on after a leap."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from leapverify.leap.schedule.advance import count_of, steps_per_update

logger = logging.getLogger(__name__)


class StepRate:
    """Compares the schedulers' own counts with the real steps between checkpoints.

    A scheduler that is stepped once an epoch stays where it is between most checkpoints; moving it on by K after a leap
    of K steps would end its schedule at once.

    Args:
        schedulers: those of the run.
    """

    def __init__(self, schedulers: Sequence[Any]) -> None:
        self._schedulers = list(schedulers)
        self._counts = [count_of(each) for each in self._schedulers]
        self._real = 0
        self._reported = False
        self._leap: list[int] = [0] * len(self._schedulers)
        self.moving: list[Any] = []
        """The schedulers that moved once per step over the last interval."""

    def look(self, real: int) -> None:
        """Compare at a checkpoint, after so many real steps in all."""
        steps, self._real = real - self._real, real
        counts = [count_of(each) for each in self._schedulers]
        before, self._counts = self._counts, counts
        self.moving = [
            scheduler
            for scheduler, now, then in zip(self._schedulers, counts, before, strict=True)
            if now is None
            or then is None
            or 0.5 * steps <= (now - then) / steps_per_update(scheduler) <= 1.5 * steps + 1
        ]
        if len(self.moving) < len(self._schedulers) and not self._reported:
            self._reported = True
            logger.warning(
                "leapverify: %d of %d schedulers did not move once per optimizer step and are taken as constant; leaps "
                "do not move them on",
                len(self._schedulers) - len(self.moving),
                len(self._schedulers),
            )

    def leapt(self) -> None:
        """Count what a leap has moved them on by as no step of theirs."""
        before, self._counts = self._counts, [count_of(each) for each in self._schedulers]
        self._leap = [
            0 if now is None or then is None else now - then for now, then in zip(self._counts, before, strict=True)
        ]

    def undone(self) -> None:
        """The same after the last leap has been taken back."""
        self._counts = [
            None if count is None else count - leap for count, leap in zip(self._counts, self._leap, strict=True)
        ]
        self._leap = [0] * len(self._schedulers)

    def state_dict(self) -> dict[str, Any]:
        """The counts at the last checkpoint, as JSON values."""
        return {"counts": self._counts, "real": self._real}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if len(state["counts"]) == len(self._schedulers):
            self._counts, self._real = list(state["counts"]), state["real"]
