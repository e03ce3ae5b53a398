"""Counting and timing real optimizer steps, whatever the loop around them does."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

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
        self._skipped: Tensor | None = None
        """Steps since the last `take` that a fused optimizer skipped by itself; None where none can have been."""
        self._seconds, self._usual = 0.0, float("inf")
        me = weakref.ref(self)

        def hook(optimizer: Optimizer, *_: Any) -> None:
            counter = me()
            if counter is not None:
                counter._stepped(optimizer)

        self._handle = optimizers[-1].register_step_post_hook(hook)

    @property
    def pending(self) -> int:
        """Real steps since the last `take`; waits for the device where a fused optimizer may have skipped some."""
        skipped = 0 if self._skipped is None else int(self._skipped)
        return self.count - self.seen - skipped

    def take(self) -> tuple[int, float]:
        """The real steps since the last call, and the seconds that they took, pauses left out."""
        new, seconds = self.pending, self._seconds
        if new:
            self._usual = seconds / new
        self.restart()
        return new, seconds

    def restart(self, pending: int = 0) -> None:
        """Count all steps up to now as taken in, except the last `pending`."""
        self.seen, self._skipped, self._seconds = self.count - pending, None, 0.0

    def waited(self, seconds: float) -> None:
        """Add time that training took on an accelerator after its steps had been handed over."""
        self._seconds += seconds

    def close(self) -> None:
        """Take the hook out."""
        self.after, self.closed = None, True
        self._handle.remove()

    def _stepped(self, optimizer: Optimizer) -> None:
        now = time.perf_counter()
        if self.last is not None:
            taken = now - self.last
            self._seconds += taken if taken < PAUSE * self._usual else self._usual
        self.last = now
        self.count += 1
        self._look_for_skip(optimizer)
        if self.after is not None:
            self.after()

    def _look_for_skip(self, optimizer: Optimizer) -> None:
        """Add up on the device, without waiting for it, what a gradient scaler has handed to a fused optimizer.

        Such an optimizer finds out on the device that a step is to be skipped, so its hooks run for steps that were
        none. Its own counts do not serve: some keep none, and those of frozen parameters stand still.
        """
        found = getattr(optimizer, "found_inf", None)
        if torch.is_tensor(found):
            skipped = (found.detach() != 0).any().long()
            self._skipped = skipped if self._skipped is None else self._skipped + skipped.to(self._skipped.device)
