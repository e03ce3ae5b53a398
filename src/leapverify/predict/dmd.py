"""`dmd-r`: a few modes of the differences between snapshots, rolled on (method of snapshots, Sirovich 1987)."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from jaxtyping import Float64

from leapverify.predict.combination import of_displacements
from leapverify.predict.formula import Formula
from leapverify.predict.gram import combine_each, eigen, grams
from leapverify.predict.predictor import Needs, Request

BEYOND = 2
"""Snapshots that `dmd-r` reads beyond the r + 2 that it needs."""


def dmd(rank: int) -> Formula:
    """`dmd-r`: theta_t + sum_{j=1..s} U A^j U' d_m, s = K/Delta, per tensor.

    X = [d_1 .. d_{m-1}], Y = [d_2 .. d_m], X ~ U S V' cut to rank r; A = U'Y V / S is the recurrence d_{i+1} = A d_i
    within the span of U, its eigenvalues outside the unit disc drawn back onto the circle. Between whole numbers of
    intervals the prediction lies on the line between the two next to it.

    Source: dynamic mode decomposition, projected (Schmid, J. Fluid Mech. 656, 2010), of weights: Dogra and Redman,
    NeurIPS 2020; Tano, Portwood and Ragusa 2020. Claim (Dogra and Redman): weights of small feedforward networks are
    predicted over a stretch of training more than 10 times faster than optimizers go it.
    Cost: each snapshot is read twice; the eigenvalues of one m x m matrix per tensor.

    Args:
        rank: r, at least 1. It predicts from r + 2 snapshots on, and reads up to r + 4: a longer window takes more
            memory, and docs/results/predictors.md tells what it brings.

    Raises:
        ValueError: a rank below 1.

    Example:
        >>> d = 0.5 ** np.arange(4)  # each difference is half of the one before
        >>> b = rolled(np.outer(d, d), rank=1, intervals=2)
        >>> round(float(b @ d), 6)  # d_4 (1/2 + 1/4), as the recurrence goes on
        0.09375
    """
    if rank < 1:
        raise ValueError(f"dmd-{rank} follows no mode: use a rank of at least 1, or hold")

    def write(request: Request) -> None:
        intervals = request.horizon / request.spacing
        factors = [of_displacements(rolled(gram, rank, intervals)[::-1].tolist()) for gram in grams(request)]
        combine_each(request.out, [each.tensors for each in request.snapshots], factors)

    return Formula(f"dmd-{rank}", Needs(rank + 2, upto=rank + BEYOND + 2, even=True), write, grams)


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


def _sum_of_powers(
    a: Float64[np.ndarray, "r r"], x: Float64[np.ndarray, " r"], count: int
) -> Float64[np.ndarray, " r"]:
    """A x + A^2 x + ... + A^n x: n times y -> A y + A x from 0, as the power of one matrix."""
    rank = len(a)
    step = np.zeros((rank + 1, rank + 1))
    step[:rank, :rank], step[:rank, rank], step[rank, rank] = a, a @ x, 1
    return np.linalg.matrix_power(step, count)[:rank, rank]
