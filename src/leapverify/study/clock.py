"""Where the seconds of a run go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Seconds from its making to `stop`: of the device's queue on a GPU, of the clock on a CPU.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start, self._end = self._mark(), self._mark()

    def stop(self) -> None:
        """End here; a later call ends there instead."""
        self._end = self._mark()

    @property
    def seconds(self) -> float:
        """The time between; waits for a GPU that has not got so far yet."""
        if isinstance(self._start, float) or isinstance(self._end, float):
            return float(self._end) - float(self._start)  # type: ignore[arg-type]
        self._end.synchronize()
        return self._start.elapsed_time(self._end) / 1e3

    def _mark(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event


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
