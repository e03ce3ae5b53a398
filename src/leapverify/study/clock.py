"""Where the seconds of a run go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PARTS = ("train", "observe", "evaluate", "sweep", "cascade", "snapshot", "lyapunov")


class Clock:
    """Seconds per part since the last checkpoint, and over all."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spent: dict[str, float] = {}
        self._before, self._start = 0.0, time.perf_counter()

    def start(self, before_s: float) -> None:
        """Begin, or go on after a stop.

        Args:
            before_s: what earlier calls have taken.
        """
        self._before, self._start = before_s, time.perf_counter()

    def next_interval(self) -> None:
        """Forget the parts of the interval that has ended."""
        self._spent = {}

    def __getitem__(self, part: str) -> float:
        return self._spent.get(part, 0.0)

    @property
    def elapsed_s(self) -> float:
        """Seconds over all calls."""
        return self._before + time.perf_counter() - self._start

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block's seconds to a part.

        Training steps do not wait for the device; whatever follows them does, so that a GPU's queue is not cut up.
        """
        if self._device.type == "cuda" and name != "train":
            start = time.perf_counter()
            torch.cuda.synchronize()
            self._spent["train"] = self["train"] + time.perf_counter() - start
        start = time.perf_counter()
        yield
        if self._device.type == "cuda" and name != "train":
            torch.cuda.synchronize()
        self._spent[name] = self[name] + time.perf_counter() - start
