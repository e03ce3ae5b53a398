"""Lines and polynomials through past states: linear, quadratic, taylor-n, linear-fit, plp, and the paper's variants.

With theta_j the j-th newest snapshot, every one of them is theta_t + sum_j c_j (theta_j - theta_t), see `Combination`.

The intervals h1 = t - t_1 and h2 = t_1 - t_2 may differ. With s = K / h1, d1 = theta_t - theta_1, and d2 = 2 h1^2 times
the divided difference of second order, the parabola is theta_t + s d1 + s(s+1)/2 d2 for any intervals. For equal ones
d2 is the second difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leapverify.predict.blockwise import Workspace, apply, reduce
from leapverify.predict.combination import Combination, chained, combination
from leapverify.predict.formula import Formula
from leapverify.predict.predictor import Needs, Request
from leapverify.trajectory.history import Snapshot


def lagrange(lags: Sequence[int], horizon: int) -> tuple[float, ...]:
    """Weights of the older points in the polynomial through all points: c_j = prod_{i != j} (K + l_i) / (l_i - l_j)."""
    older = range(1, len(lags))
    return tuple(math.prod((horizon + l_i) / (l_i - lags[j]) for l_i in lags if l_i != lags[j]) for j in older)


def second_difference(lags: Sequence[int]) -> tuple[float, float]:
    """a and b of d2 = a (theta_1 - theta_t) + b (theta_2 - theta_t); -2 and 1 for equal intervals."""
    h1, h2 = lags[1], lags[2] - lags[1]
    return -2.0 * h1 / h2, 2.0 * h1 * h1 / (h2 * (h1 + h2))


def printed_quadratic(lags: Sequence[int], horizon: int) -> tuple[float, float]:
    """Weights of theta_1 and theta_2 in theta_t + s d1 + s(s-1)/2 d2."""
    s = horizon / lags[1]
    a, b = second_difference(lags)
    bend = s * (s - 1) / 2
    return -s + bend * a, bend * b


def linear() -> Combination:
    """theta_t + s d1 (paper, eq. 4).

    Example:
        >>> linear().coefficients((0, 10), 20)  # two intervals on, theta_t - 2 (theta_1 - theta_t)
        (-2.0,)
    """
    return Combination("linear", Needs(2), lagrange)


def quadratic() -> Combination:
    """theta_t + s d1 + s(s+1)/2 d2: the parabola through three points.

    Example:
        >>> quadratic().coefficients((0, 10, 20), 10)
        (-3.0, 1.0)
    """
    return Combination("quadratic", Needs(3), lagrange)


def quadratic_paper() -> Combination:
    """theta_t + s d1 + s(s-1)/2 d2 (paper, eq. 5); not the parabola.

    Example:
        >>> quadratic_paper().coefficients((0, 10, 20), 20)
        (-4.0, 1.0)
    """
    return Combination("quadratic-paper", Needs(3), printed_quadratic)


def taylor(order: int) -> Combination:
    """The polynomial of degree n through n + 1 points (Kamarthi and Pittner, Neural Networks 12(9), 1999).

    Args:
        order: n, at least 1.

    Raises:
        ValueError: an order below 1.

    Example:
        >>> taylor(3).coefficients((0, 10, 20, 30), 10)
        (-6.0, 4.0, -1.0)
    """
    if order < 1:
        raise ValueError(f"taylor-{order} has no slope: use an order of at least 1, or hold")
    return Combination(f"taylor-{order}", Needs(order + 1), lagrange)


def quadratic_clamped() -> Formula:
    """theta_t + s d1 + s^2/2 d2', with d2' = d2 min(1, norm(d1) / (2 norm(d2))) per tensor (the paper's code).

    Example:
        >>> _clamp(step_square=1.0, bend_square=4.0)  # norm(d2) = 2 norm(d1): d2' = d2 / 4
        0.25
    """
    return Formula("quadratic-clamped", Needs(3), _write_clamped, _squared_differences)


def _write_clamped(request: Request) -> None:
    a, b = second_difference(request.lags)
    squares, workspace = _squared_differences(request), Workspace(request.out)
    s = request.horizon / request.lags[1]
    points = [each.tensors for each in request.snapshots]
    for square, target, *inputs in zip(squares, request.out, *points, strict=True):
        bend = s * s / 2 * _clamp(*square)
        apply(combination((-s + bend * a, bend * b)), target, inputs, workspace)


def _squared_differences(request: Request) -> list[list[float]]:
    """|d1|^2 and |d2|^2 of each tensor."""
    points = tuple(each.tensors for each in request.snapshots)
    squares = _squares(*second_difference(request.lags))
    what = "squares of d1 and d2"
    return request.history.derived((what, request.device), lambda: reduce(what, squares, 2, points, request))


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


def linear_fit(window: int = 8) -> Combination:
    """Per element the least-squares line over T snapshots, K steps after the newest; norms and biases are copied.

    c_j = 1/T + (K + l)(l - l_j) / sum_i (l - l_i)^2, with l the mean of the T lags l_j. Tensors of fewer than two
    dimensions count as norms and biases.
    Source: RLVR-Linearity, arXiv 2601.04537.
    Claim: in reinforcement learning from verifiable rewards weights move along lines, and extrapolated ones are as good
    as trained ones at up to 6.1 times fewer steps. That holds for language models that are fine-tuned so, not for
    training in general.
    Cost: a read of each of the T snapshots and a write.

    Args:
        window: T at most, at least 3; it predicts from 3 snapshots on.

    Raises:
        ValueError: a window below 3.

    Example:
        >>> [round(c, 3) for c in linear_fit().coefficients((0, 10, 20), 10)]
        [0.333, -0.667]
    """
    if window < 3:
        raise ValueError(f"a line fits {window} snapshots exactly: fit at least 3, or use linear")
    return Combination("linear-fit", Needs(3, upto=window), fitted_line, chained, least_dims=2)


def fitted_line(lags: Sequence[int], horizon: int) -> tuple[float, ...]:
    """Weights of the older points in their least-squares line, K steps after the newest point."""
    mean = sum(lags) / len(lags)
    spread = sum((mean - lag) ** 2 for lag in lags)
    return tuple(1 / len(lags) + (horizon + mean) * (mean - lag) / spread for lag in lags[1:])


def plp() -> Combination:
    """w_3 + K (w_3 - w_1) / 2, with w_1, w_2, w_3 the weights after the three newest optimizer steps.

    (w_3 - w_1) / 2 is the mean of the two slopes and the slope of the least-squares line through the three states. The
    middle one cancels and is not read.
    Source: parameters linear prediction, Scientific Reports 14:15197 (2024).
    Claim: about 1 % higher accuracy of image classifiers, with such a step in each cycle of three
    optimizer steps; no time to a target is given.
    Cost: two reads and a write; the run keeps three more states.

    Example:
        >>> plp().coefficients((0, 2), 10)  # w_3 - 5 (w_1 - w_3)
        (-5.0,)
    """
    return Combination("plp", Needs(1, recent=3), lagrange, states=_first_and_last)


def _first_and_last(request: Request) -> Sequence[Snapshot]:
    """w_3 and w_1."""
    recent = request.history.recent
    assert recent is not None  # `require_request` has looked
    return recent[-1], recent[-3]
