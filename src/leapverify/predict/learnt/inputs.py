"""A network of one weight, applied to large tensors in chunks, so that its hidden layer never leaves the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from leapverify.predict.blockwise import Kernel, Workspace

Displacement: TypeAlias = Callable[[Sequence[Tensor]], Tensor]
"""Flat pieces of the states, (n,) each -> what is added to the newest one."""

CPU_CHUNK = 1 << 13
"""Weights at a time on a CPU: 40 hidden values of each are 1.3 MB."""
ACCELERATOR_CHUNK = 1 << 20


def displaced(newest: int, displacement: Displacement) -> Kernel:
    """The kernel of w + displacement(states), w being the state of number `newest` among the inputs."""

    def kernel(result: Tensor, pieces: Sequence[Tensor], scratch: Workspace) -> None:
        flat = [piece.reshape(-1) for piece in pieces]
        elements = result.numel()
        chunk = CPU_CHUNK if result.device.type == "cpu" else ACCELERATOR_CHUNK
        whole = scratch.flat("displaced", elements)
        for start in range(0, elements, chunk):
            states = [each[start : start + chunk] for each in flat]
            torch.add(states[newest], displacement(states), out=whole[start : start + chunk])
        result.copy_(whole.view(result.shape))

    return kernel


def placed(weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The network's weights on a device."""
    return {name: each.to(device, non_blocking=True) for name, each in weights.items()}
