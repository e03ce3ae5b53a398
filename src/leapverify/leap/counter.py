"""Counting real optimizer steps, whatever the loop around them does."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from leapverify.leap.optimizers import own_step_count


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
        self._optimizers = optimizers
        self._own: int | None = None
        me = weakref.ref(self)

        def hook(*_: Any) -> None:
            counter = me()
            if counter is not None:
                counter.count += 1
                if counter.after is not None:
                    counter.after()

        self._handle = optimizers[-1].register_step_post_hook(hook)

    def take(self) -> int:
        """The real steps since the last call; those that a fused optimizer skipped by itself were none."""
        new, own = self.count - self.seen, own_step_count(self._optimizers)
        if own is not None and self._own is not None and 0 <= own - self._own < new:
            new = own - self._own
        self.begin_anew()
        return new

    def begin_anew(self) -> None:
        """Take everything up to now as counted, also where moments were reset or loaded."""
        self._own, self.seen = own_step_count(self._optimizers), self.count

    def close(self) -> None:
        """Take the hook out."""
        self.after = None
        self._handle.remove()
