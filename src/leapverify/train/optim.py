"""AdamW as the reference runs use it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch.nn import Parameter

from leapverify.train.rounding import StochasticAdamW


def build_optimizer(
    parameters: Iterable[Parameter],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    device: torch.device | str = "cpu",
    *,
    rounding: Literal["nearest", "stochastic"] = "nearest",
    seed: int = 0,
) -> torch.optim.AdamW:
    """AdamW over all given parameters in one group, fused where the device has such a kernel.

    The fused kernel computes a step of bfloat16 weights and moments in float32 and rounds each result once, to
    nearest; the unfused ones round in between as well.

    Args:
        parameters: those without gradient are left out.
        lr: eta.
        betas: of the two moments.
        eps: added to the root of v_hat.
        weight_decay: decoupled.
        device: of the parameters.
        rounding: of a step's results where the parameters are bfloat16; their moments are bfloat16 too.
        seed: of stochastic rounding.

    Raises:
        ValueError: no parameter requires a gradient.
    """
    moved = [parameter for parameter in parameters if parameter.requires_grad]
    if not moved:
        raise ValueError("no parameter requires a gradient: unfreeze at least one before building the optimizer")
    if rounding == "stochastic":
        return StochasticAdamW(moved, lr, betas, eps, weight_decay, seed=seed)
    fused = torch.device(device).type in ("cpu", "cuda")
    return torch.optim.AdamW(moved, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
