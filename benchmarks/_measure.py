"""Seconds and memory of an action, for the benchmarks beside this file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch


def seconds(action: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    start = clock()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def extra_bytes(action: Callable[[], object], device: torch.device) -> int | None:
    """Peak memory above what was there before; None where this system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak of the resident set
    except OSError:
        action()
        return None
    before = _resident("VmRSS")
    action()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
