"""NiNo's scaling: x = (w - mean) / (std + 1e-6), mean and unbiased std over a tensor's elements in all five states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leapverify.predict.blockwise import Workspace, reduce
from leapverify.predict.nino.checkpoint import CONTEXT
from leapverify.predict.predictor import Request

EPS = 1e-6


@dataclass(frozen=True)
class Scale:
    """Mean and unbiased standard deviation of one tensor."""

    mean: float
    std: float


def scales(request: Request) -> list[Scale]:
    """The scale of each tensor of a request, read once per history; an empty tensor has a scale that nothing uses."""
    points = tuple(each.tensors for each in request.snapshots)

    def compute() -> list[Scale]:
        sums = reduce("NiNo's scales", _moments, 2, points, request)
        return [_scale(each, CONTEXT * elements) for each, elements in zip(sums, request.elements, strict=True)]

    return request.history.derived(("NiNo's scales", request.device), compute)


def _moments(pieces: Sequence[Tensor], scratch: Workspace) -> Tensor:
    """sum w and sum w^2, from what lies about the block's mean: squares of the numbers themselves would drown a spread
    that is small beside them."""
    totals = torch.zeros(2, dtype=torch.float64, device=pieces[0].device)
    for piece in pieces:
        count, about = piece.numel(), piece.mean()
        centred = torch.sub(piece, about, out=scratch.like("centred", piece)).view(-1)
        rest = centred.sum().double()  # what rounding left in the mean
        mean = about.double() + rest / count
        spread = torch.dot(centred, centred).double() - rest.square() / count
        totals += torch.stack([count * mean, spread + count * mean.square()])
    return totals


def _scale(sums: Sequence[float], count: int) -> Scale:
    if not count:
        return Scale(0.0, 0.0)
    mean = sums[0] / count
    variance = (sums[1] - count * mean * mean) / (count - 1)
    # Sums of equal numbers leave a rest of their last digits.
    return Scale(mean, math.sqrt(variance) if not variance <= 1e-14 * mean * mean else 0.0)


def scaled(rows: Tensor, pieces: Sequence[Tensor], scale: Scale) -> Tensor:
    """x of one block: the five states, oldest first, and a row of ones that stands for biases.

    Args:
        rows: (6, n) or more, float32; written.
        pieces: five blocks of n elements, newest first as in a request, of any floating type and device.
        scale: of the tensor that they belong to.

    Returns:
        (6, n).
    """
    x = rows[:, : pieces[0].numel()]
    for row, piece in zip(x, reversed(pieces), strict=False):
        row.view(piece.shape).copy_(piece).sub_(scale.mean).mul_(1 / (scale.std + EPS))
    x[-1] = 1.0
    return x


def unscaled(target: Tensor, now: Tensor, x: Tensor, delta: Tensor, scale: Scale) -> None:
    """target = (x_5 + delta) std + mean, as theta_t + std delta - 1e-6 x_5, which is the same and does not round
    theta_t anew.

    Args:
        target: block that is written; any floating type.
        now: the block of theta_t.
        x: (6, n) from `scaled`.
        delta: (n,), float32; spent.
        scale: of the tensor.
    """
    delta.mul_(scale.std).sub_(x[-2], alpha=EPS)
    if now.dtype == torch.float32 and now.device == delta.device:
        target.copy_(delta.view(now.shape).add_(now))
    else:
        target.copy_(delta.view(now.shape).add_(now.to(delta.device, torch.float32)))
