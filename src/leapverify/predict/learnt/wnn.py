"""`wnn`: a learnt network that sees five evenly spaced values of a weight and their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from leapverify.core.weights import Tensors
from leapverify.predict.blockwise import Workspace, apply
from leapverify.predict.learnt.files import Learnt, load_learnt
from leapverify.predict.learnt.inputs import Displacement, displaced, placed
from leapverify.predict.learnt.networks import Weights, forward_wnn, wnn_features
from leapverify.predict.predictor import Needs, require_request
from leapverify.trajectory.history import History


@dataclass(frozen=True)
class Wnn:
    """w_5 + K / (n Delta) · 2 range · f(a, differences of a), a_j = (w_j - w_1) / (range + 1e-5) / 2, per element.

    range is that of the five values; f is learnt: two streams of two layers, joined. It was learnt to give the
    displacement after n intervals, n standing in the file's card as `ahead`; for other K that is scaled linearly,
    which is ours, as is that the result is scaled back without the 1e-5: a weight at rest stays.

    Source: Jang and Han 2023, Learning to boost training by periodic nowcasting near future weights (ICML 2023). They
    claim the same accuracy in fewer epochs on image classifiers and language models, without verification.
    Cost: five states read once; 1,200 multiplications a weight.
    """

    learnt: Learnt = field(compare=False)
    name: str = "wnn"
    needs: Needs = field(default=Needs(5, even=True))

    @torch.no_grad()
    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        """See `Predictor.predict`."""
        request = require_request(self.needs, history, horizon, out)
        share = horizon / (self.learnt.card["ahead"] * request.spacing)
        kernel = displaced(4, displacement(placed(self.learnt.weights, request.device), share))
        workspace = Workspace(request.out)
        states = tuple(each.tensors for each in reversed(request.snapshots))
        for target, *inputs in zip(request.out, *states, strict=True):
            apply(kernel, target, inputs, workspace)
        return request.out

    def operations(self, history: History) -> float:
        """Floating-point operations of a prediction, of the network alone."""
        return self.learnt.operations(history)


def wnn(file: Path | str | None = None) -> Wnn:
    """The predictor with the weights of a file; those that come with the package by default.

    Raises:
        ValueError: the file is missing, damaged or of another network, or its card does not say how far it looks.
    """
    learnt = load_learnt("wnn", file)
    ahead = learnt.card.get("ahead")
    if not isinstance(ahead, int) or ahead < 1:
        raise ValueError(f"the card of {file} names no number of intervals to look ahead: train it again")
    return Wnn(learnt)


def displacement(weights: Weights, share: float) -> Displacement:
    """share · 2 range · f(...), from flat pieces of w_1 ... w_5."""

    def found(states: Sequence[Tensor]) -> Tensor:
        x, unit = wnn_features(states)
        return forward_wnn(weights, x).mul_(unit).mul_(share)

    return found
