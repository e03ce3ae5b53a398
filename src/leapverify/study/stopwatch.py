"""How long a device works on something, without making it wait."""

from __future__ import annotations

import time

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
