"""`wnn`: a learnt network that sees five evenly spaced values of a weight and their differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from leapverify.predict.blockwise import Workspace, apply
from leapverify.predict.formula import Formula
from leapverify.predict.learnt.files import Learnt, load_learnt
from leapverify.predict.learnt.inputs import Displacement, displaced, placed
from leapverify.predict.learnt.networks import Weights, forward_wnn, wnn_features
from leapverify.predict.predictor import Needs, Request

NEEDS = Needs(5, even=True)


def wnn(file: Path | str | None = None) -> Formula:
    """w_5 + K / (n Delta) · 2 range · f(a, differences of a), a_j = (w_j - w_1) / (range + 1e-5) / 2, per element.

    range is that of the five values; f is learnt: two streams of two layers, joined. It was learnt to give the
    displacement after n intervals, n standing in the file's card as `ahead`; for other K that is scaled linearly,
    which is ours, as is that the result is scaled back without the 1e-5: a weight at rest stays.

    Source: Jang and Han 2023, Learning to boost training by periodic nowcasting near future weights (ICML 2023). They
    claim the same accuracy in fewer epochs on image classifiers and language models, without verification.
    Cost: five states read once; 1,200 multiplications a weight.

    Args:
        file: learnt weights; None for those that come with the package.

    Raises:
        ValueError: the file is missing, damaged or of another network, or its card does not say how far it looks.

    Example:
        >>> load_learnt("wnn").card["ahead"]
        2
    """
    learnt = load_learnt("wnn", file)
    ahead = learnt.card.get("ahead")
    if not isinstance(ahead, int) or ahead < 1:
        raise ValueError(f"the card of {file} names no number of intervals to look ahead: train it again")
    return wnn_form(learnt)


def wnn_form(learnt: Learnt) -> Formula:
    """`wnn` with weights that have been read."""
    return Formula("wnn", NEEDS, lambda request: _write(request, learnt), operations=learnt.operations)


def _write(request: Request, learnt: Learnt) -> None:
    share = request.horizon / (learnt.card["ahead"] * request.spacing)
    kernel = displaced(4, displacement(placed(learnt.weights, request.device), share))
    workspace = Workspace(request.out)
    states = tuple(each.tensors for each in reversed(request.snapshots))
    for target, *inputs in zip(request.out, *states, strict=True):
        apply(kernel, target, inputs, workspace)


def displacement(weights: Weights, share: float) -> Displacement:
    """share · 2 range · f(...), from flat pieces of w_1 ... w_5."""

    def found(states: Sequence[Tensor]) -> Tensor:
        x, unit = wnn_features(states)
        return forward_wnn(weights, x).mul_(unit).mul_(share)

    return found
