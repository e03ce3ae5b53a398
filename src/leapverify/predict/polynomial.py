"""Polynomials through past snapshots: linear, quadratic, the paper's quadratic, taylor-n, and the clamped quadratic.

With theta_j the j-th newest snapshot, every one of them is theta_t + sum_j c_j (theta_j - theta_t), where the c_j
depend on the steps and on K alone. Differences of close numbers are exact in floating point, so large c_j multiply the
rounding of small differences and never that of the weights themselves, as they would in sum_j c_j theta_j.

The differences of SPEC's table for uneven intervals h1 = t - t_1, h2 = t_1 - t_2, with s = K / h1:
d1 = theta_t - theta_1 and d2 = 2 h1^2 times the divided difference of second order. With these the parabola is
theta_t + s d1 + s(s+1)/2 d2 for any intervals, and d2 is the second difference for equal ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from leapverify.history import History
from leapverify.predict.blockwise import Kernel, Workspace, apply, reduce
from leapverify.predict.predictor import Needs, Request, require_request
from leapverify.weights import Tensors

Coefficients: TypeAlias = Callable[[Sequence[int], int], tuple[float, ...]]
"""(lags 0, t - t_1, ..., in steps; K) -> c_1, c_2, ..."""


@dataclass(frozen=True)
class Polynomial:
    """theta_t + sum_j c_j (theta_j - theta_t)."""

    name: str
    needs: Needs
    coefficients: Coefficients

    @torch.no_grad()
    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        """See `Predictor.predict`."""
        request = require_request(self.needs, history, horizon, out)
        kernel = combination(self.coefficients(request.lags, horizon))
        workspace = Workspace(request.out)
        for target, *inputs in zip(request.out, *(each.tensors for each in request.snapshots), strict=True):
            apply(kernel, target, inputs, workspace)
        return request.out


@dataclass(frozen=True)
class ClampedQuadratic:
    """theta_t + s d1 + s^2/2 d2', with d2' = d2 min(1, norm(d1) / (2 norm(d2))) per tensor (the paper's code)."""

    name: str = "quadratic-clamped"
    needs: Needs = field(default=Needs(3))

    @torch.no_grad()
    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        """See `Predictor.predict`."""
        request = require_request(self.needs, history, horizon, out)
        points = tuple(each.tensors for each in request.snapshots)
        a, b = second_difference(request.lags)
        squares = self._known(history, request)
        s = horizon / request.lags[1]
        workspace = Workspace(request.out)
        for square, target, *inputs in zip(squares, request.out, *points, strict=True):
            bend = s * s / 2 * _clamp(*square) if square else 0.0
            apply(combination((-s + bend * a, bend * b)), target, inputs, workspace)
        return request.out

    @torch.no_grad()
    def prepare(self, history: History, out: Tensors) -> None:
        """See `Prepares.prepare`."""
        self._known(history, require_request(self.needs, history, 1, out))

    def _known(self, history: History, request: Request) -> list[list[float]]:
        """|d1|^2 and |d2|^2 of each tensor."""
        points = tuple(each.tensors for each in request.snapshots)
        squares = _squares(*second_difference(request.lags))
        return history.derived(("squares of d1 and d2", request.device), lambda: reduce(squares, points, request.out))


def combination(factors: Sequence[float]) -> Kernel:
    """The kernel of p_0 + sum_j c_j (p_j - p_0)."""

    def kernel(result: Tensor, pieces: Sequence[Tensor], scratch: Workspace) -> None:
        now, one, *older = pieces
        torch.lerp(now, one, factors[0], out=result)
        for piece, factor in zip(older, factors[1:], strict=True):
            difference = torch.sub(piece, now, out=scratch.like("difference", now))
            result.add_(difference, alpha=factor)

    return kernel


def lagrange(lags: Sequence[int], horizon: int) -> tuple[float, ...]:
    """Weights of the older points in the polynomial through all points: c_j = prod_{i != j} (K + l_i) / (l_i - l_j)."""
    older = range(1, len(lags))
    return tuple(math.prod((horizon + l_i) / (l_i - lags[j]) for l_i in lags if l_i != lags[j]) for j in older)


def second_difference(lags: Sequence[int]) -> tuple[float, float]:
    """d2 = a (theta_1 - theta_t) + b (theta_2 - theta_t) for uneven intervals; -2 and 1 for equal ones."""
    h1, h2 = lags[1], lags[2] - lags[1]
    return -2.0 * h1 / h2, 2.0 * h1 * h1 / (h2 * (h1 + h2))


def printed_quadratic(lags: Sequence[int], horizon: int) -> tuple[float, float]:
    """theta_t + s d1 + s(s-1)/2 d2, as the paper prints eq. 5."""
    s = horizon / lags[1]
    a, b = second_difference(lags)
    bend = s * (s - 1) / 2
    return -s + bend * a, bend * b


def linear() -> Polynomial:
    """theta_t + s d1 (paper, eq. 4)."""
    return Polynomial("linear", Needs(2), lagrange)


def quadratic() -> Polynomial:
    """theta_t + s d1 + s(s+1)/2 d2: the parabola through three points."""
    return Polynomial("quadratic", Needs(3), lagrange)


def quadratic_paper() -> Polynomial:
    """theta_t + s d1 + s(s-1)/2 d2 (paper, eq. 5); not the parabola."""
    return Polynomial("quadratic-paper", Needs(3), printed_quadratic)


def taylor(order: int) -> Polynomial:
    """The polynomial of degree n through n + 1 points (Kamarthi and Pittner, Neural Networks 12(9), 1999).

    Raises:
        ValueError: an order below 1.
    """
    if order < 1:
        raise ValueError(f"taylor-{order} has no slope: use an order of at least 1, or hold")
    return Polynomial(f"taylor-{order}", Needs(order + 1), lagrange)


def _squares(a: float, b: float) -> Callable[[Sequence[Tensor], Workspace], Tensor]:
    """|d1|^2 and |d2|^2, with d2 = (a + b) (y - theta_t), y between theta_1 and theta_2."""

    def squares(pieces: Sequence[Tensor], scratch: Workspace) -> Tensor:
        now, one, two = pieces
        bend = torch.lerp(one, two, b / (a + b), out=scratch.like("bend", now)).sub_(now).view(-1)
        step = torch.sub(now, one, out=scratch.like("difference", now)).view(-1)
        return torch.stack([torch.dot(step, step), torch.dot(bend, bend) * (a + b) ** 2])

    return squares


def _clamp(step_square: float, bend_square: float) -> float:
    """min(1, norm(d1) / (2 norm(d2)))."""
    return min(1.0, math.sqrt(step_square / (4 * bend_square))) if bend_square > 0 else 1.0
