"""Where the seconds of a run go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from leapverify.core.stopwatch import Stopwatch

PARTS = ("train", "observe", "evaluate", "sweep", "cascade", "snapshot", "lyapunov")


class Clock:
    """Seconds per part since the last checkpoint, and over all; on a GPU those of its queue, which is never cut up."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spent: dict[str, float] = {}
        self._watches: list[tuple[str, Stopwatch]] = []
        self._before, self._start = 0.0, time.perf_counter()

    def start(self, before_s: float) -> None:
        """Begin, or go on after a stop.

        Args:
            before_s: what earlier calls have taken.
        """
        self._before, self._start = before_s, time.perf_counter()

    def next_interval(self) -> None:
        """Forget the parts of the interval that has ended."""
        self._spent, self._watches = {}, []

    def __getitem__(self, part: str) -> float:
        for name, watch in self._watches:
            self._spent[name] = self._spent.get(name, 0.0) + watch.seconds
        self._watches = []
        return self._spent.get(part, 0.0)

    @property
    def elapsed_s(self) -> float:
        """Seconds over all calls."""
        return self._before + time.perf_counter() - self._start

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block's seconds to a part; nothing waits for the device until a part is asked for."""
        watch = Stopwatch(self._device)
        yield
        watch.stop()
        self._watches.append((name, watch))
