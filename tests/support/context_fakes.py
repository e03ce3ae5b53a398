"""All that a predictor may ask for, small and exact: quadratic losses around a known optimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leapverify.trajectory.averages import PowerAverages
from leapverify.trajectory.context import Layout
from leapverify.trajectory.history import History
from leapverify.trajectory.milestones import Milestones


@dataclass
class Bowl:
    """L(w) = sum (w - optimum)^2 / 2: a `Selection` and a `Gradients`."""

    optimum: Sequence[Tensor]
    asked: list[str] = field(default_factory=list)

    def loss(self, weights: Sequence[Tensor]) -> float:
        """L."""
        self.asked.append("loss")
        pairs = zip(weights, self.optimum, strict=True)
        return float(sum((w.detach().double() - o.double()).square().sum() for w, o in pairs)) / 2

    def gradient(self, weights: Sequence[Tensor], draw: int) -> tuple[Tensor, Sequence[Tensor]]:
        """L and w - optimum, whatever the draw."""
        self.asked.append(f"gradient {draw}")
        slopes = [w.detach().float() - o.float() for w, o in zip(weights, self.optimum, strict=True)]
        return torch.tensor(sum(float(each.square().sum()) for each in slopes) / 2), slopes


def with_context(history: History, fine: History, start: Sequence[Tensor], bowl: Bowl) -> History:
    """The history with everything set that a predictor may ask for; nothing has been pushed to it yet.

    Args:
        history: empty.
        fine: empty; for `History.recent`.
        start: the state at step 0.
        bowl: gives losses and gradients.
    """
    assert len(history) == 0
    history.layout = Layout(tuple(f"layer.{i}.weight" for i in range(len(start))), None, None, None)
    history.selection, history.gradients = bowl, bowl
    history.recent, history.averages, history.milestones = fine, PowerAverages(), Milestones()
    history.milestones.push(0, start)
    return history
