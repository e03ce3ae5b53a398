"""Counting and timing real optimizer steps, whatever the loop around them does."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from leapverify.leap.optimizers import own_step_count

PAUSE = 10.0
"""Times the usual step; what takes longer was no step but an evaluation, a save or a pause, and counts as one step."""


class StepCounter:
    """Counts the steps of the optimizers through a hook, so that accumulation and skipped steps count for nothing.

    Args:
        optimizers: those of the run; the last one closes a step.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.count = 0
        """Steps that the hook has seen."""
        self.seen = 0
        """Those that were taken in with `take`."""
        self.after: Callable[[], Any] | None = None
        """Called after every step while it is set."""
        self.closed = False
        self.last: float | None = None
        """When the last step ended, or the engine after it; None before the first."""
        self._optimizers = optimizers
        self._fused = any(group.get("fused") for optimizer in optimizers for group in optimizer.param_groups)
        self._own = self._own_count()
        self._seconds, self._usual = 0.0, float("inf")
        me = weakref.ref(self)

        def hook(*_: Any) -> None:
            counter = me()
            if counter is not None:
                counter._stepped()

        self._handle = optimizers[-1].register_step_post_hook(hook)

    @property
    def pending(self) -> int:
        """Real steps since the last `take`; those that a fused optimizer skipped by itself were none."""
        return self._new(self._own_count())

    def _new(self, own: int | None) -> int:
        new = self.count - self.seen
        if own is not None and self._own is not None and 0 <= own - self._own < new:
            return own - self._own
        return new

    def take(self) -> tuple[int, float]:
        """The real steps since the last call, and the seconds that they took, pauses left out."""
        own, seconds = self._own_count(), self._seconds
        new = self._new(own)
        if new:
            self._usual = seconds / new
        self._own, self.seen, self._seconds = own, self.count, 0.0
        return new, seconds

    def begin_anew(self, pending: int = 0) -> None:
        """Take everything up to now as counted, but for so many steps; also where moments were reset or loaded."""
        own = self._own_count()
        self._own = None if own is None else own - pending
        self.seen, self._seconds = self.count - pending, 0.0

    def waited(self, seconds: float) -> None:
        """Add time that training took on an accelerator after its steps had been handed over."""
        self._seconds += seconds

    def close(self) -> None:
        """Take the hook out."""
        self.after, self.closed = None, True
        self._handle.remove()

    def _stepped(self) -> None:
        now = time.perf_counter()
        if self.last is not None:
            taken = now - self.last
            self._seconds += taken if taken < PAUSE * self._usual else self._usual
        self.last = now
        self.count += 1
        if self.after is not None:
            self.after()

    def _own_count(self) -> int | None:
        own = own_step_count(self._optimizers)
        return 0 if own is None and self._fused else own
