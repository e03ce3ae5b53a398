"""Running averages of a trajectory from which any later average can be put together (Karras et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leapverify.weights import Tensors

EXPONENTS = (16.97, 6.94)
"""gamma of the two averages: a relative width of 0.05 and of 0.10 of the run so far."""


@dataclass(frozen=True)
class Averaged:
    """One running average at one step; the tensors belong to the averages and must not be written."""

    step: int
    gamma: float
    tensors: tuple[Tensor, ...]


class PowerAverages:
    """Two averages with power-function weights, tau^gamma at step tau.

    theta_bar_t = beta theta_bar + (1 - beta) theta_t with beta = (1 - 1/n)^(gamma + 1) at the n-th state.
    """

    def __init__(self, kept: int = 8) -> None:
        self._kept = kept
        self._averages: list[list[Tensor]] = []
        self._count = 0
        self.states: list[Averaged] = []
        """Copies of both averages at the newest checkpoints, oldest first."""

    @torch.no_grad()
    def push(self, step: int, tensors: Tensors) -> None:
        """Take a state into both averages and keep copies of them."""
        raise NotImplementedError

    def reset(self) -> None:
        """Begin anew."""
        self._averages, self._count, self.states = [], 0, []
