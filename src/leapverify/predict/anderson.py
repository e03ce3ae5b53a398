"""Extrapolation to the fixed point of a linear recurrence: `rre` and `anderson`.

With R = [d_1 .. d_m], d_i = w_{i+1} - w_i, all tensors taken together: solve (R'R / |R'R| + lambda I) z = 1 and take
c = z / sum z, which minimises |R c|^2 + lambda |R'R| |c|^2 among all c of sum 1. Where w_{i+1} - w* = A (w_i - w*), as
under gradient descent on a quadratic bowl, R c = 0 means that the combination of snapshots is w*. That is exact with
one difference more than the recurrence has modes. c sums to 1 and does not change when the weights are moved, scaled or
rotated, so neither does what is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from leapverify.errors import Declined
from leapverify.predict.formula import Formula
from leapverify.predict.gram import WINDOW, combine_each, grams
from leapverify.predict.predictor import Needs, Request

REGULARISATION = 1e-5
"""lambda, the source's."""
GRID = (1e-9, 1e-7, 1e-5, 1e-3, 1e-1)
"""lambdas that are tried; as lambda grows, c goes over into the plain mean."""
FLOOR = 2.0**-48
"""Eigenvalues of R'R / |R'R| + lambda I are at least this: below, float64 has computed only rounding."""


def rre(regularisation: float = REGULARISATION) -> Formula:
    """`rre`: sum_i c_i w_i over w_1 .. w_m, lambda 1e-5; the same for every K.

    Source: reduced rank extrapolation (Eddy 1979, Mesina 1977), regularised by Scieur, d'Aspremont and Bach, NeurIPS
    2016, m = 15. Claim (Scieur et al. 2018, Nonlinear Acceleration of Deep Neural Networks): networks extrapolated from
    the iterates of SGD with momentum are more accurate, most of all early; ResNet-152 on ImageNet at 20.88 % top-1
    error, 0.8 less than without.
    Cost: each snapshot is read twice.

    Args:
        regularisation: lambda, at least 0.

    Example:
        >>> fixed_point(np.array([[4.0, 2.0], [2.0, 1.0]]), 0.0).round(3)  # d_2 = d_1 / 2: w* = -w_1 + 2 w_2
        array([-1.,  2.])
    """

    def write(request: Request) -> None:
        c = fixed_point(grams(request).sum(0), regularisation)
        _write(request, [] if c is None else c[::-1].tolist())

    return Formula("rre", Needs(3, upto=WINDOW, even=True, horizon=False), write, grams)


def anderson(grid: tuple[float, ...] = GRID) -> Formula:
    """`anderson`: sum_i c_i w_{i+1}, lambda from a grid by the held-out loss of selection; the same for every K.

    Each w_{i+1} is what the optimizer made of w_i, so this is Anderson's mixing (1965) with beta = 1, where `rre` is
    that with beta = 0: it reaches one interval further, the newest snapshot included.

    Source: the grid is that of Scieur, d'Aspremont and Bach, NeurIPS 2016; the claim is that of `rre`.
    Cost: one held-out loss per lambda (5); each snapshot is read once, and once more per lambda and for the result.

    Args:
        grid: lambdas, each at least 0.

    Example:
        >>> anderson().needs.selection, GRID
        (True, (1e-09, 1e-07, 1e-05, 0.001, 0.1))
    """

    def write(request: Request) -> None:
        found = choice(request, grid)
        if found.losses and not math.isfinite(min(found.losses)):
            raise Declined(f"none of the {len(found.losses)} candidates has a finite held-out loss")
        _write_mixed(request, found.regularisation)

    needs = Needs(3, upto=WINDOW, even=True, selection=True, horizon=False)
    return Formula("anderson", needs, write, lambda request: choice(request, grid))


class Choice(NamedTuple):
    """What `anderson` found."""

    regularisation: float | None
    """lambda; None: the trajectory is at rest."""
    losses: tuple[float, ...] = ()
    """Held-out loss of each lambda of the grid; infinite where it was not finite."""


def choice(request: Request, grid: tuple[float, ...] = GRID) -> Choice:
    """The lambda of the smallest held-out loss; measured once per push. Candidates are written into `request.out`."""

    def search() -> Choice:
        if not grams(request).any():
            return Choice(None)
        losses = []
        for regularisation in grid:
            _write_mixed(request, regularisation)
            losses.append(measured(request))
        return Choice(grid[losses.index(min(losses))], tuple(losses))

    return request.history.derived(("anderson", grid, request.device), search)


def fixed_point(gram: Float64[np.ndarray, "m m"], regularisation: float) -> Float64[np.ndarray, " m"] | None:
    """c = z / sum z with (G / |G| + lambda I) z = 1, |G| the largest eigenvalue.

    Args:
        gram: G = R'R.
        regularisation: lambda.

    Returns:
        c, oldest first; None where nothing moved.
    """
    values, vectors = np.linalg.eigh(gram)
    if values[-1] <= 0:
        return None
    shares = np.maximum(values / values[-1] + regularisation, FLOOR)
    z = vectors @ (vectors.sum(0) / shares)
    return z / z.sum()


def measured(request: Request) -> float:
    """The held-out loss of what stands in `request.out`, infinite where it is not finite."""
    selection = request.history.selection
    assert selection is not None  # `require_request` has looked
    loss = float(selection.loss(request.out))
    return loss if math.isfinite(loss) else math.inf


def _write_mixed(request: Request, regularisation: float | None) -> None:
    c = None if regularisation is None else fixed_point(grams(request).sum(0), regularisation)
    _write(request, [] if c is None else [*c[-2::-1].tolist(), 0.0])


def _write(request: Request, factors: Sequence[float]) -> None:
    """The same combination for every tensor; no factors leave theta_t."""
    points = [each.tensors for each in request.snapshots] if factors else [request.now]
    combine_each(request.out, points, [factors] * len(request.out))
