"""Low rank in time: `dmd-r` rolls a few modes of the differences on, `rank1` follows one direction from a base.

Both work per tensor and know the snapshots by their Gram matrix alone (method of snapshots, Sirovich 1987).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float64
from torch import Tensor

from leapverify.core.weights import Tensors
from leapverify.predict.combination import of_displacements
from leapverify.predict.gram import WINDOW, combine_each, eigen, grams
from leapverify.predict.predictor import Needs, require_request
from leapverify.trajectory.history import History

BEYOND = 2
"""Snapshots that `dmd-r` reads beyond the r + 2 that it needs."""


@dataclass(frozen=True)
class DynamicModes:
    """`dmd-r`: theta_t + sum_{j=1..s} U A^j U' d_m, s = K/Delta, per tensor.

    X = [d_1 .. d_{m-1}], Y = [d_2 .. d_m], X ~ U S V' cut to rank r; A = U'Y V / S is the recurrence d_{i+1} = A d_i
    within the span of U, its eigenvalues outside the unit disc drawn back onto the circle. Between whole numbers of
    intervals the prediction lies on the line between the two next to it.

    Source: dynamic mode decomposition, projected (Schmid, J. Fluid Mech. 656, 2010), of weights: Dogra and Redman,
    NeurIPS 2020; Tano, Portwood and Ragusa 2020. Claim (Dogra and Redman): weights of small feedforward networks are
    predicted over a stretch of training more than 10 times faster than optimizers go it.
    Cost: each snapshot is read twice; the eigenvalues of one m x m matrix per tensor.
    """

    rank: int
    name: str
    needs: Needs

    @torch.no_grad()
    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        """See `Predictor.predict`."""
        request = require_request(self.needs, history, horizon, out)
        intervals = horizon / request.spacing
        factors = [of_displacements(rolled(gram, self.rank, intervals)[::-1].tolist()) for gram in grams(request)]
        combine_each(request.out, [each.tensors for each in request.snapshots], factors)
        return request.out

    def prepare(self, history: History, out: Tensors) -> None:
        """See `Prepares.prepare`."""
        grams(require_request(self.needs, history, 1, out))


@dataclass(frozen=True)
class RankOne:
    """`rank1`: w_1 + k(t+K) v, per tensor.

    The rows of M are the deltas w_i - w_1 to the oldest snapshot of the window, M ~ sigma u v' to rank one, and k(step)
    is the least-squares line through the coefficients sigma u_i at their true steps and 0 at the base. What the newest
    snapshot has beside v is left out.

    Source: RELEX, arXiv 2605.21468. Claim: RLVR at 15 % of the steps, up to 20 times beyond the window, which starts at
    the run's base.
    Cost: each snapshot is read twice.
    """

    name: str = "rank1"
    needs: Needs = field(default=Needs(3, upto=WINDOW))

    @torch.no_grad()
    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        """See `Predictor.predict`."""
        request = require_request(self.needs, history, horizon, out)
        oldest_first = list(reversed(request.snapshots))
        steps = np.array([each.step - oldest_first[-1].step for each in oldest_first], dtype=np.float64)
        factors = [along_one(gram, steps, horizon).tolist() for gram in grams(request)]
        combine_each(request.out, [each.tensors for each in oldest_first], factors)
        return request.out

    def prepare(self, history: History, out: Tensors) -> None:
        """See `Prepares.prepare`."""
        grams(require_request(self.needs, history, 1, out))


def rolled(gram: Float64[np.ndarray, "m m"], rank: int, intervals: float) -> Float64[np.ndarray, " m"]:
    """Coefficients b with sum_i b_i d_i = sum_{j=1..s} U A^j U' d_m.

    Args:
        gram: G of d_1 .. d_m.
        rank: r; fewer where X has no more.
        intervals: s, positive; a fraction lies on the line between whole numbers.
    """
    squares, v = eigen(gram[:-1, :-1])
    squares, v = squares[:rank], v[:, :rank]
    if not len(squares):  # nothing moved before the newest interval: there is no recurrence to follow
        return np.zeros(len(gram))
    basis = v / np.sqrt(squares)  # U = X basis
    a = clipped(basis.T @ gram[:-1, 1:] @ basis)
    now = basis.T @ gram[:-1, -1]
    whole = int(intervals)
    below = _sum_of_powers(a, now, whole)
    above = a @ (below + now)
    return np.append(basis @ (below + (intervals - whole) * (above - below)), 0.0)


def clipped(a: Float64[np.ndarray, "r r"]) -> Float64[np.ndarray, "r r"]:
    """A with its eigenvalues outside the unit disc drawn onto the circle, in real Schur form.

    The form's diagonal holds an eigenvalue, or a block of two rows for a conjugate pair; each is scaled by itself. No
    eigenvectors are divided by, so repeated eigenvalues do no harm.
    """
    t, q = scipy.linalg.schur(a, output="real")
    sizes = []
    start = 0
    while start < len(t):
        stop = start + 2 if start + 1 < len(t) and t[start + 1, start] else start + 1
        block = t[start:stop, start:stop]
        sizes.append(abs(np.linalg.det(block)) ** (1 / len(block)))
        block /= max(1.0, sizes[-1])
        start = stop
    return q @ t @ q.T if max(sizes) > 1 else a


def along_one(
    gram: Float64[np.ndarray, "m m"], steps: Float64[np.ndarray, " n"], horizon: int
) -> Float64[np.ndarray, " m"]:
    """Coefficients q with k(t+K) v = sum_i q_i (w_{i+1} - w_1).

    Args:
        gram: G of the m = n - 1 differences.
        steps: of the n snapshots, counted from the newest one's, oldest first.
        horizon: K, steps.
    """
    sums = np.tril(np.ones_like(gram))  # w_{i+1} - w_1 = d_1 + ... + d_i
    squares, u = eigen(sums @ gram @ sums.T)
    if not len(squares):
        return np.zeros(len(gram))
    sigma, first = np.sqrt(squares[0]), u[:, 0]
    k = np.append(0.0, sigma * first)
    off = steps - steps.mean()
    slope = off @ k / (off @ off)
    # v = M'u / sigma
    return (k.mean() + slope * (horizon - steps.mean())) / sigma * first


def dmd(rank: int) -> DynamicModes:
    """`dmd-r`, from r + 2 snapshots on, up to a window of r + 4.

    A longer window takes more memory, and what it brings is told in docs/results/predictors.md.

    Raises:
        ValueError: a rank below 1.
    """
    if rank < 1:
        raise ValueError(f"dmd-{rank} follows no mode: use a rank of at least 1, or hold")
    needs = Needs(rank + 2, upto=rank + BEYOND + 2, even=True)
    return DynamicModes(rank, f"dmd-{rank}", needs)


def _sum_of_powers(
    a: Float64[np.ndarray, "r r"], x: Float64[np.ndarray, " r"], count: int
) -> Float64[np.ndarray, " r"]:
    """A x + A^2 x + ... + A^n x: n times y -> A y + A x from 0, as the power of one matrix."""
    rank = len(a)
    step = np.zeros((rank + 1, rank + 1))
    step[:rank, :rank], step[:rank, rank], step[rank, rank] = a, a @ x, 1
    return np.linalg.matrix_power(step, count)[:rank, rank]
