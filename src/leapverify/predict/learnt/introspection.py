"""`introspection`: a learnt network that sees four states of a weight and says where it will be at twice the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from leapverify.errors import Declined
from leapverify.predict.blockwise import Workspace, apply, reduce
from leapverify.predict.formula import Formula
from leapverify.predict.learnt.files import Learnt, load_learnt
from leapverify.predict.learnt.inputs import Displacement, displaced, placed
from leapverify.predict.learnt.networks import Weights, forward_introspection, introspection_features
from leapverify.predict.predictor import Needs, Request
from leapverify.trajectory.history import History
from leapverify.trajectory.snapshot import Snapshot

SHARES = (0.7, 0.4, 0.0)
"""Of t: the steps of the three older states."""
TOLERANCE = 0.1
"""Largest distance of a kept state from its share, as a share of t."""
NEEDS = Needs(1, milestones=SHARES, horizon=False)


def introspection(file: Path | str | None = None) -> Formula:
    """w_2t = w_t + S f(w_t / R, (w_t - w_0.7t) / S, (w_t - w_0.4t) / S, (w_t - w_0) / S), element by element.

    S is the root mean square of w_t - w_0 over the tensor, R that of w_t; f is learnt, one hidden layer of 40 ReLU.
    The original multiplies all weights by one constant and predicts w_2t itself. Here the constant is the tensor's own,
    so that a tensor of any scale is served, and f adds to w_t, so that a network that has learnt nothing is `hold`.
    The four states are to lie within 0.1 t of their shares; the result is the same for every K.

    Source: Sinha, Sarkar, Mukherjee and Krishnamurthy 2017, Introspection: accelerating neural network training by
    learning weight evolution (ICLR 2017). They claim faster convergence of image classifiers on MNIST, CIFAR-10 and
    ImageNet with a network learnt on one MNIST run, without verification of the jumps.
    Cost: four states read, two of them twice (for S and R); 200 multiplications a weight.

    Args:
        file: learnt weights; None for those that come with the package.

    Raises:
        ValueError: the file is missing, damaged or of another network.

    Example:
        >>> introspection().needs.milestones
        (0.7, 0.4, 0.0)
    """
    return introspection_form(load_learnt("introspection", file))


def introspection_form(learnt: Learnt) -> Formula:
    """`introspection` with weights that have been read."""
    return Formula("introspection", NEEDS, lambda request: _write(request, learnt), _sums, learnt.operations)


def _write(request: Request, learnt: Learnt) -> None:
    older, sums = milestones(request.history), _sums(request)
    weights, workspace = placed(learnt.weights, request.device), Workspace(request.out)
    states = (request.now, *(each.tensors for each in older))
    for found, elements, target, *inputs in zip(sums, request.elements, request.out, *states, strict=True):
        if target.numel():
            size, moved = (math.sqrt(each / elements) for each in found)
            apply(displaced(0, displacement(weights, size, moved)), target, inputs, workspace)


def _sums(request: Request) -> list[list[float]]:
    """|w_t|^2 and |w_t - w_0|^2 of each tensor."""
    first = milestones(request.history)[-1].tensors
    what, states = "squares of theta_t and theta_t - theta_0", (request.now, first)
    return request.history.derived((what, request.device), lambda: reduce(what, _squares, 2, states, request))


def milestones(history: History) -> list[Snapshot]:
    """The states at 0.7 t, 0.4 t and 0.

    Raises:
        Declined: none lies near enough.
    """
    assert history.milestones is not None
    t = history.steps[-1]
    if not len(history.milestones) or history.milestones.steps[0] != 0:
        raise Declined("needs the state that the run began with, that of step 0 was not kept")
    found = [history.milestones.nearest(share * t) for share in SHARES]
    for share, each in zip(SHARES, found, strict=True):
        if abs(each.step - share * t) > TOLERANCE * t:
            raise Declined(f"needs a state within {TOLERANCE} t of {share} t, at t = {t} the nearest is of {each.step}")
    return found


def displacement(weights: Weights, size: float, moved: float) -> Displacement:
    """S f(...) of one tensor, from flat pieces of w_t, w_0.7t, w_0.4t, w_0."""

    def found(states: Sequence[Tensor]) -> Tensor:
        return forward_introspection(weights, introspection_features(states, size, moved)).mul_(moved)

    return found


def _squares(pieces: Sequence[Tensor], scratch: Workspace) -> Tensor:
    now, first = pieces
    step = torch.sub(now, first, out=scratch.like("difference", now)).view(-1)
    flat = now.reshape(-1)
    return torch.stack([torch.dot(flat, flat), torch.dot(step, step)])
