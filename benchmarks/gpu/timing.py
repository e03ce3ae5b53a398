"""Seconds on a device, and what the device can do at its best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from leapverify.capacity.machine import Accelerator


def synchronised(device: str) -> float:
    """The clock, once the device has done all that it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def taken(call: Callable[[], object], device: str, *, repeats: int, calls: int = 1, warm: int = 1) -> list[float]:
    """Seconds of one call, measured `repeats` times over `calls` calls without waiting between them."""
    for _ in range(warm):
        call()
    found = []
    for _ in range(repeats):
        start = synchronised(device)
        for _ in range(calls):
            call()
        found.append((synchronised(device) - start) / calls)
    return found


def median(call: Callable[[], object], device: str, *, repeats: int, calls: int = 1, warm: int = 1) -> float:
    """The median of `taken`."""
    return statistics.median(taken(call, device, repeats=repeats, calls=calls, warm=warm))


def rates(device: str, *, small: bool, repeats: int = 7) -> dict[str, float]:
    """The best of several: large copies within the device and to it, and one large product in bfloat16."""
    elements, side = (1 << 20, 128) if small else (1 << 28, 8192)
    source, out = torch.zeros(elements, device=device), torch.empty(elements, device=device)
    host = torch.zeros(elements)
    locked = host.pin_memory() if device == "cuda" else host.clone()
    left = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    right, product = torch.randn_like(left), torch.empty_like(left)
    best = {
        "copy": min(taken(lambda: out.copy_(source), device, repeats=repeats)),
        "pinned": min(taken(lambda: out.copy_(locked, non_blocking=True), device, repeats=repeats)),
        "pageable": min(taken(lambda: out.copy_(host), device, repeats=repeats)),
        "matmul": min(taken(lambda: torch.mm(left, right, out=product), device, repeats=repeats)),
    }
    return {
        "copy_bytes_per_s": 2 * source.nbytes / best["copy"],
        "pinned_to_device_bytes_per_s": host.nbytes / best["pinned"],
        "pageable_to_device_bytes_per_s": host.nbytes / best["pageable"],
        "bf16_flops_per_s": 2.0 * side**3 / best["matmul"],
    }


def as_accelerator(measured: Mapping[str, Any]) -> Accelerator:
    """A device by its measured rates, to be put into the floor in the place of its maker's numbers."""
    flops, copies = measured["bf16_flops_per_s"], measured["copy_bytes_per_s"]
    return Accelerator("measured", 0, flops, copies, measured["pinned_to_device_bytes_per_s"], "measured in this job")
