"""Predictions that are one fixed combination of states: theta_hat = theta_t + sum_j c_j (theta_j - theta_t).

theta_j is the j-th state before the newest; the c_j depend on the steps and on K alone, never on the weights. A state
of rest is therefore predicted to rest, to the bit. Two kernels compute the same sum:

`combination` adds the differences. Those of close numbers are exact in floating point, so large c_j multiply the
rounding of small differences and never that of the weights themselves, as they would in sum_j c_j theta_j.

`chained` goes through running averages, r_j = r_{j-1} + c_j / P_j (theta_j - r_{j-1}), P_j = c_0 + ... + c_j with
c_0 = 1 - sum_{j>0} c_j, which is one pass over each state instead of two. It needs every P_j > 0, and multiplies the
rounding of the weights by up to max P_j, and by P_j / P_{j-1} where the sums rise again from a small one (r_{j-1} is
as large as 1 / P_{j-1}). That is at most 2 for averages, and for the formulas that use it never much more than what
they multiply the rounding of the stored states by anyway (c_0 = P_0).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from leapverify.core.pinned import copy_ahead
from leapverify.core.weights import Tensors
from leapverify.predict.blockwise import Kernel, Workspace, apply
from leapverify.predict.predictor import Needs, Request, require_request
from leapverify.trajectory.history import History, Snapshot

Coefficients: TypeAlias = Callable[[Sequence[int], int], Sequence[float]]
"""(lags 0, t - t_1, ..., in steps; K) -> c_1, c_2, ..., one at least."""


def snapshots_of(request: Request) -> Sequence[Snapshot]:
    """The snapshots of a request, newest first."""
    return request.snapshots


def combination(factors: Sequence[float]) -> Kernel:
    """The kernel of p_0 + sum_j c_j (p_j - p_0), difference by difference."""

    def kernel(result: Tensor, pieces: Sequence[Tensor], scratch: Workspace) -> None:
        now, one, *older = pieces
        torch.lerp(now, one, factors[0], out=result)
        for piece, factor in zip(older, factors[1:], strict=True):
            difference = torch.sub(piece, now, out=scratch.like("difference", now))
            result.add_(difference, alpha=factor)

    return kernel


def chained(factors: Sequence[float]) -> Kernel:
    """The kernel of the same sum where all partial sums of the weights, c_0 first, are positive."""
    weights = (1.0 - math.fsum(factors), *factors)
    sums = tuple(itertools.accumulate(weights))
    assert min(sums) > 0, "a formula that is no running average was given to `chained`"
    shares = [weight / total for weight, total in zip(weights, sums, strict=True)][1:]

    def kernel(result: Tensor, pieces: Sequence[Tensor], _: Workspace) -> None:
        now, one, *older = pieces
        torch.lerp(now, one, shares[0], out=result)
        for piece, share in zip(older, shares[1:], strict=True):
            result.lerp_(piece, share)

    return kernel


def combine(out: Sequence[Tensor], points: Sequence[Tensors], kernel: Kernel) -> None:
    """out = kernel(points), tensor by tensor; no tensors are no work."""
    if not out:
        return
    workspace = Workspace(out)
    for target, *inputs in zip(out, *points, strict=True):
        apply(kernel, target, inputs, workspace)


@dataclass(frozen=True)
class Combination:
    """theta_t + sum_j c_j (theta_j - theta_t)."""

    name: str
    needs: Needs
    coefficients: Coefficients
    kernel: Callable[[Sequence[float]], Kernel] = combination
    """`combination` or `chained`."""
    states: Callable[[Request], Sequence[Snapshot]] = snapshots_of
    """The states that are combined, newest first, two at least."""
    least_dims: int = 0
    """Tensors of fewer dimensions are copied from theta_t."""

    @torch.no_grad()
    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        """See `Predictor.predict`."""
        request = require_request(self.needs, history, horizon, out)
        states = self.states(request)
        lags = tuple(states[0].step - each.step for each in states)
        kernel = self.kernel(self.coefficients(lags, horizon))
        moved = [i for i, each in enumerate(request.now) if each.dim() >= self.least_dims]
        combine([request.out[i] for i in moved], [[each.tensors[i] for i in moved] for each in states], kernel)
        still = [i for i, each in enumerate(request.now) if each.dim() < self.least_dims]
        copy_ahead([request.out[i] for i in still], [request.now[i] for i in still])
        return request.out


def of_displacements(a: Sequence[float]) -> tuple[float, ...]:
    """c_1, c_2, ... of theta_t + sum_i a_i d_i, with d_i = theta_i - theta_{i+1} the displacements, newest first.

    The partial sums of its weights are 1 + a_i: `chained` computes it wherever all a_i > -1.
    """
    return tuple(after - before for before, after in itertools.pairwise((*a, 0.0)))
