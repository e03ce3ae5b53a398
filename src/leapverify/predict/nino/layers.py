"""What both of NiNo's networks share: a linear layer over many rows, and the last layer for a given k."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from leapverify.predict.nino.schedule import columns

CPU_ROWS = 2048
"""Rows of a block on a CPU: activations 128 wide stay in its caches."""
ACCELERATOR_ROWS = 1 << 17


def rows_of(device: torch.device) -> int:
    """Rows of a block on a device."""
    return CPU_ROWS if device.type == "cpu" else ACCELERATOR_ROWS


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b.

    torch hands float32 matrices on a CPU to a library that uses half the width of some processors. oneDNN, which it
    brings too, was 2.2 times as fast at 128 columns on such a one.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and weight.shape[1] > 8 and _onednn():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _onednn() -> bool:
    return bool(torch.backends.mkldnn.enabled) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@dataclass(frozen=True, eq=False)
class LastLayer:
    """One output for each k from 1 to 40."""

    weight: Tensor
    """(40, H)"""
    bias: tuple[float, ...]

    def row(self, k: float) -> tuple[Tensor, float]:
        """The row, (H,), and the bias for k; between whole k both are joined linearly."""
        chosen = columns(k)
        row = torch.stack([self.weight[number] * share for number, share in chosen]).sum(0)
        return row, sum(self.bias[number] * share for number, share in chosen)

    def to(self, device: torch.device) -> LastLayer:
        """The same on a device, in float32."""
        return LastLayer(self.weight.to(device, torch.float32), self.bias)
