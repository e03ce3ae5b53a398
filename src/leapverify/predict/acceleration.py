"""Extrapolation to the fixed point of a linear recurrence: `rre` and `anderson`.

With R = [d_1 .. d_m], d_i = w_{i+1} - w_i, all tensors taken together: solve (R'R / |R'R| + lambda I) z = 1 and take
c = z / sum z, which minimises |R c|^2 + lambda |R'R| |c|^2 among all c of sum 1. Where w_{i+1} - w* = A (w_i - w*), as
under gradient descent on a quadratic bowl, R c = 0 means that the combination of snapshots is w*: exactly, with one
difference more than the recurrence has modes. c sums to 1 and does not change when the weights are moved, scaled or
rotated, so neither does what is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from leapverify.core.weights import Tensors
from leapverify.errors import Declined
from leapverify.predict.gram import WINDOW, combine_each, grams
from leapverify.predict.predictor import Needs, Request, require_request
from leapverify.trajectory.context import Selection
from leapverify.trajectory.history import History

REGULARISATION = 1e-5
"""lambda, the source's."""
GRID = (1e-9, 1e-7, 1e-5, 1e-3, 1e-1)
"""lambdas that are tried; as lambda grows, c goes over into the plain mean."""
FLOOR = 2.0**-48
"""Eigenvalues of R'R / |R'R| + lambda I are at least this: below, float64 has computed only rounding."""


@dataclass(frozen=True)
class ReducedRank:
    """`rre`: sum_i c_i w_i over w_1 .. w_m, lambda 1e-5; the same for every K.

    Source: reduced rank extrapolation (Eddy 1979, Mesina 1977), regularised by Scieur, d'Aspremont and Bach, NeurIPS
    2016, m = 15. Claim (Scieur et al. 2018, Nonlinear Acceleration of Deep Neural Networks): networks extrapolated from
    the iterates of SGD with momentum are more accurate, most of all early; ResNet-152 on ImageNet at 20.88 % top-1
    error, 0.8 less than without.
    Cost: each snapshot is read twice.
    """

    regularisation: float = REGULARISATION
    """lambda, at least 0."""
    name: str = "rre"
    needs: Needs = field(default=Needs(3, upto=WINDOW, even=True, horizon=False))

    @torch.no_grad()
    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        """See `Predictor.predict`."""
        request = require_request(self.needs, history, horizon, out)
        c = fixed_point(grams(request).sum(0), self.regularisation)
        _write(request, [] if c is None else c[::-1].tolist())
        return request.out

    def prepare(self, history: History, out: Tensors) -> None:
        """See `Prepares.prepare`."""
        grams(require_request(self.needs, history, 1, out))


@dataclass(frozen=True)
class Choice:
    """What `anderson` found."""

    regularisation: float | None
    """lambda; None: the trajectory is at rest."""
    losses: tuple[float, ...] = ()
    """Held-out loss of each lambda of the grid; infinite where it was not finite."""


@dataclass(frozen=True)
class Anderson:
    """`anderson`: sum_i c_i w_{i+1}, lambda from a grid by the held-out loss of selection; the same for every K.

    Each w_{i+1} is what the optimizer made of w_i, so this is Anderson's mixing (1965) with beta = 1, where `rre` is
    that with beta = 0: it reaches one interval further, the newest snapshot included.

    Source: the grid is that of Scieur, d'Aspremont and Bach, NeurIPS 2016; the claim is that of `rre`.
    Cost: one held-out loss per lambda (5); each snapshot is read once, and once more per lambda and for the result.
    """

    grid: tuple[float, ...] = GRID
    name: str = "anderson"
    needs: Needs = field(default=Needs(3, upto=WINDOW, even=True, selection=True, horizon=False))

    @torch.no_grad()
    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        """See `Predictor.predict`."""
        request = require_request(self.needs, history, horizon, out)
        self._write(request, self._choice(request).regularisation)
        return request.out

    def prepare(self, history: History, out: Tensors) -> None:
        """See `Prepares.prepare`; candidates are written into `out`."""
        self.choice(history, out)

    @torch.no_grad()
    def choice(self, history: History, out: Tensors | None = None) -> Choice:
        """The lambda chosen and the losses it was chosen by; measured once per push.

        Raises:
            Declined: too little history, or no candidate has a finite loss.
        """
        return self._choice(require_request(self.needs, history, 1, out))

    def _choice(self, request: Request) -> Choice:
        found = request.history.derived((self, request.device), lambda: self._search(request))
        if found.losses and not math.isfinite(min(found.losses)):
            raise Declined(f"none of the {len(found.losses)} candidates has a finite held-out loss")
        return found

    def _search(self, request: Request) -> Choice:
        if not grams(request).any():
            return Choice(None)
        losses = []
        for regularisation in self.grid:
            self._write(request, regularisation)
            losses.append(measured(request.history.selection, request.out))
        return Choice(self.grid[losses.index(min(losses))], tuple(losses))

    def _write(self, request: Request, regularisation: float | None) -> None:
        c = None if regularisation is None else fixed_point(grams(request).sum(0), regularisation)
        _write(request, [] if c is None else [*c[-2::-1].tolist(), 0.0])


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


def measured(selection: Selection | None, weights: Tensors) -> float:
    """The held-out loss of a candidate, infinite where it is not finite."""
    assert selection is not None  # `require_request` has seen to it
    loss = float(selection.loss(weights))
    return loss if math.isfinite(loss) else math.inf


def _write(request: Request, factors: Sequence[float]) -> None:
    """The same combination for every tensor; none leaves theta_t."""
    points = [each.tensors for each in request.snapshots] if factors else [request.now]
    combine_each(request.out, points, [factors] * len(request.out))
