"""`introspection`: a learnt network that sees four states of a weight and says where it will be at twice the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from leapverify.core.weights import Tensors
from leapverify.predict.blockwise import Workspace, apply, reduce
from leapverify.predict.learnt.files import Learnt, load_learnt
from leapverify.predict.learnt.inputs import Displacement, displaced, placed
from leapverify.predict.learnt.networks import Weights, forward_introspection, introspection_features
from leapverify.predict.predictor import Declined, Needs, Request, require_request
from leapverify.trajectory.history import History
from leapverify.trajectory.snapshot import Snapshot

SHARES = (0.7, 0.4, 0.0)
"""Of t: the steps of the three older states."""
TOLERANCE = 0.1
"""Largest distance of a kept state from its share, as a share of t."""


@dataclass(frozen=True)
class Introspection:
    """w_2t = w_t + S f(w_t / R, (w_t - w_0.7t) / S, (w_t - w_0.4t) / S, (w_t - w_0) / S), element by element.

    S is the root mean square of w_t - w_0 over the tensor, R that of w_t; f is learnt, one hidden layer of 40 ReLU.
    The original multiplies all weights by one constant and predicts w_2t itself. Here the constant is the tensor's own,
    so that a tensor of any scale is served, and f adds to w_t, so that a network that has learnt nothing is `hold`.
    The four states are to lie within 0.1 t of their shares; the result is the same for every K.

    Source: Sinha, Sarkar, Mukherjee and Krishnamurthy 2017, Introspection: accelerating neural network training by
    learning weight evolution (ICLR 2017). They claim faster convergence of image classifiers on MNIST, CIFAR-10 and
    ImageNet with a network learnt on one MNIST run, without verification of the jumps.
    Cost: four states read, two of them twice (for S and R); 200 multiplications a weight.
    """

    learnt: Learnt = field(compare=False)
    name: str = "introspection"
    needs: Needs = field(default=Needs(1, milestones=SHARES, horizon=False))

    @torch.no_grad()
    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        """See `Predictor.predict`."""
        request = require_request(self.needs, history, horizon, out)
        older = milestones(history)
        sums = self._sums(history, request, older[-1])
        weights = placed(self.learnt.weights, request.device)
        workspace = Workspace(request.out)
        states = (request.now, *(each.tensors for each in older))
        for found, elements, target, *inputs in zip(sums, request.elements, request.out, *states, strict=True):
            if target.numel():
                size, moved = (math.sqrt(each / elements) for each in found)
                apply(displaced(0, displacement(weights, size, moved)), target, inputs, workspace)
        return request.out

    @torch.no_grad()
    def prepare(self, history: History, out: Tensors) -> None:
        """See `Prepares.prepare`."""
        request = require_request(self.needs, history, 1, out)
        self._sums(history, request, milestones(history)[-1])

    def operations(self, history: History) -> float:
        """Floating-point operations of a prediction, of the network alone."""
        return self.learnt.operations(history)

    def _sums(self, history: History, request: Request, first: Snapshot) -> list[list[float]]:
        """|w_t|^2 and |w_t - w_0|^2 of each tensor."""
        what, states = "squares of theta_t and theta_t - theta_0", (request.now, first.tensors)
        return history.derived((what, request.device), lambda: reduce(what, _squares, 2, states, request))


def introspection(file: Path | str | None = None) -> Introspection:
    """The predictor with the weights of a file; those that come with the package by default.

    Raises:
        ValueError: the file is missing, damaged or of another network.
    """
    return Introspection(load_learnt("introspection", file))


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
