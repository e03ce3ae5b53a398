"""AdamW as the reference runs use it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn import Parameter


def build_optimizer(
    parameters: Iterable[Parameter],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    device: torch.device | str = "cpu",
) -> torch.optim.AdamW:
    """AdamW over all given parameters in one group, fused where the device has such a kernel.

    Raises:
        ValueError: no parameter requires a gradient.
    """
    moved = [parameter for parameter in parameters if parameter.requires_grad]
    if not moved:
        raise ValueError("no parameter requires a gradient: unfreeze at least one before building the optimizer")
    fused = torch.device(device).type in ("cpu", "cuda")
    return torch.optim.AdamW(moved, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
