"""Pairs of what a learnt predictor reads and what came: one per sampled weight and moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from leapverify.nowcast.histories import Trajectory
from leapverify.predict import Declined
from leapverify.predict.learnt.introspection import milestones
from leapverify.predict.learnt.networks import introspection_features, inverse, wnn_features
from leapverify.trajectory.history import History
from leapverify.trajectory.milestones import MILESTONES, Milestones


@dataclass(frozen=True)
class Pairs:
    """n pairs. All but `x` is in units of the tensor's movement: the root mean square, over its sampled weights, of
    the displacement between the oldest and the newest state that is read."""

    x: Float[Tensor, "features n"]
    """What the network reads."""
    unit: Float[Tensor, " n"]
    """By which its output is multiplied."""
    target: Float[Tensor, " n"]
    """The displacement that came."""
    line: Float[Tensor, " n"]
    """The displacement on a straight line through the two newest states that are read."""

    def __len__(self) -> int:
        return self.target.numel()


def pairs_of(kind: str, trajectory: Trajectory, ahead: int) -> Pairs | None:
    """The pairs of one seed; None where its history is too short.

    Args:
        kind: introspection or wnn.
        trajectory: its sampled weights.
        ahead: intervals from the newest state to the target (wnn only).
    """
    found = _introspection(trajectory) if kind == "introspection" else _wnn(trajectory, ahead)
    return joined(found)


def joined(parts: Iterable[Pairs]) -> Pairs | None:
    """All pairs together; None for none."""
    every = list(parts)
    if not every:
        return None
    columns = [torch.cat([getattr(each, name) for each in every]) for name in ("unit", "target", "line")]
    return Pairs(torch.cat([each.x for each in every], dim=1), *columns)


def _introspection(trajectory: Trajectory) -> Iterable[Pairs]:
    """At every t whose double is a checkpoint, too, with the early states that a run would have kept until then."""
    history = History([each[0] for each in trajectory.tensors], 1)
    history.milestones = Milestones(MILESTONES)
    for number, t in enumerate(trajectory.steps):
        history.push(t, [each[number] for each in trajectory.tensors])
        if t == 0 or 2 * t not in trajectory.steps:
            continue
        try:
            older = milestones(history)
        except Declined:
            continue
        then, gap = trajectory.steps.index(2 * t), t - older[0].step
        for position, tensor in enumerate(trajectory.tensors):
            now, target = tensor[number], tensor[then] - tensor[number]
            states = [now, *(each.tensors[position] for each in older)]
            moved = rms(now - states[-1])
            if scale := inverse(moved):
                x = introspection_features(states, rms(now), moved)
                line = (now - states[1]) * (t / gap)
                yield Pairs(x, torch.ones_like(now), target * scale, line * scale)


def _wnn(trajectory: Trajectory, ahead: int) -> Iterable[Pairs]:
    """All five states in a row that have one so many intervals ahead."""
    for start in range(len(trajectory.steps) - 4 - ahead):
        for tensor in trajectory.tensors:
            states = list(tensor[start : start + 5])
            if scale := inverse(rms(states[4] - states[0])):
                x, unit = wnn_features(states)
                target, line = tensor[start + 4 + ahead] - states[4], (states[4] - states[3]) * ahead
                yield Pairs(x, unit * scale, target * scale, line * scale)


def rms(tensor: Tensor) -> float:
    """The root mean square of all elements; 0 for none."""
    return float(tensor.double().square().mean().sqrt()) if tensor.numel() else 0.0
