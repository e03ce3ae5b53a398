"""Polynomials through past snapshots: linear, quadratic, the paper's quadratic, taylor-n, and the clamped quadratic;
and the line that fits several of them best.

With theta_j the j-th newest snapshot, every one of them is theta_t + sum_j c_j (theta_j - theta_t), see `Combination`.

The differences of SPEC's table for uneven intervals h1 = t - t_1, h2 = t_1 - t_2, with s = K / h1:
d1 = theta_t - theta_1 and d2 = 2 h1^2 times the divided difference of second order. With these the parabola is
theta_t + s d1 + s(s+1)/2 d2 for any intervals, and d2 is the second difference for equal ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leapverify.core.weights import Tensors
from leapverify.predict.blockwise import Workspace, apply, reduce
from leapverify.predict.combination import Combination, chained, combination
from leapverify.predict.predictor import Needs, Request, require_request
from leapverify.trajectory.history import History


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
            bend = s * s / 2 * _clamp(*square)
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
        what = "squares of d1 and d2"
        return history.derived((what, request.device), lambda: reduce(what, squares, 2, points, request))


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


def linear() -> Combination:
    """theta_t + s d1 (paper, eq. 4)."""
    return Combination("linear", Needs(2), lagrange)


def quadratic() -> Combination:
    """theta_t + s d1 + s(s+1)/2 d2: the parabola through three points."""
    return Combination("quadratic", Needs(3), lagrange)


def quadratic_paper() -> Combination:
    """theta_t + s d1 + s(s-1)/2 d2 (paper, eq. 5); not the parabola."""
    return Combination("quadratic-paper", Needs(3), printed_quadratic)


def taylor(order: int) -> Combination:
    """The polynomial of degree n through n + 1 points (Kamarthi and Pittner, Neural Networks 12(9), 1999).

    Raises:
        ValueError: an order below 1.
    """
    if order < 1:
        raise ValueError(f"taylor-{order} has no slope: use an order of at least 1, or hold")
    return Combination(f"taylor-{order}", Needs(order + 1), lagrange)


def fitted_line(lags: Sequence[int], horizon: int) -> tuple[float, ...]:
    """Weights of the older points in their least-squares line, K steps after the newest point.

    c_j = 1/T + (K + l)(l - l_j) / sum_i (l - l_i)^2, with l the mean of the T lags l_j.
    """
    mean = sum(lags) / len(lags)
    spread = sum((mean - lag) ** 2 for lag in lags)
    return tuple(1 / len(lags) + (horizon + mean) * (mean - lag) / spread for lag in lags[1:])


def linear_fit(window: int = 8) -> Combination:
    """Per element the least-squares line over T snapshots, K steps after the newest; norms and biases are copied.

    Norms and biases are told by their shape: tensors of fewer than two dimensions stay as they are in theta_t.
    Source: RLVR-Linearity, arXiv 2601.04537.
    Claim: in reinforcement learning from verifiable rewards weights move along lines, and extrapolated ones are as good
    as trained ones at up to 6.1 times fewer steps. That holds for language models that are fine-tuned so, not for
    training in general.
    Cost: a read of each of the T snapshots and a write.

    Args:
        window: T at most, at least 3; from 3 on it predicts from as many as there are.

    Raises:
        ValueError: fewer.
    """
    if window < 3:
        raise ValueError(f"a line fits {window} snapshots exactly: fit at least 3, or use linear")
    return Combination("linear-fit", Needs(3, upto=window), fitted_line, chained, least_dims=2)


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
