"""How long work on a device takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Seconds from its making on: of the device's queue on a GPU, of the clock on a CPU.

    Nothing waits for a GPU before `seconds` is asked for.

    Args:
        device: where the work is done.

    >>> watch = Stopwatch(torch.device("cpu"))
    >>> watch.stop()
    >>> watch.seconds >= 0
    True
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: list[tuple[Any, Any]] = []
        self._held_s = 0.0
        self._start, self._end = self._mark(), None

    def stop(self) -> None:
        """End here; a later call ends there instead."""
        self._end = self._mark()

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that does not count."""
        start = self._mark()
        try:
            yield
        finally:
            self._held.append((start, self._mark()))

    @property
    def seconds(self) -> float:
        """The time until `stop`, or until now; waits for a GPU that has not got so far yet."""
        end = self._mark() if self._end is None else self._end
        passed = self._between(self._start, end)
        self._held_s += sum(self._between(*each) for each in self._held)
        self._held.clear()
        return passed - self._held_s

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _between(self, start: Any, end: Any) -> float:
        if self._device.type != "cuda":
            return float(end - start)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3
