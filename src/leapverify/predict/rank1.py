"""`rank1`: one direction from a base, followed along a line through the snapshots' coefficients."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from leapverify.predict.formula import Formula
from leapverify.predict.gram import WINDOW, combine_each, eigen, grams
from leapverify.predict.predictor import Needs, Request


def rank_one() -> Formula:
    """`rank1`: w_1 + k(t+K) v, per tensor.

    The rows of M are the deltas w_i - w_1 to the oldest snapshot of the window, M ~ sigma u v' to rank one, and k(step)
    is the least-squares line through the coefficients sigma u_i at their true steps and 0 at the base. What the newest
    snapshot has orthogonal to v is left out.

    Source: RELEX, arXiv 2605.21468. Claim: RLVR at 15 % of the steps, up to 20 times beyond the window, which starts at
    the run's base.
    Cost: each snapshot is read twice.

    Example:
        >>> gram = np.ones((2, 2))  # two equal differences d: w_3 = w_1 + 2 d
        >>> q = along_one(gram, np.array([-20.0, -10.0, 0.0]), horizon=10)
        >>> round(float(q @ [1.0, 2.0]), 6)  # w_1 + 3 d
        3.0
    """
    return Formula("rank1", Needs(3, upto=WINDOW), _write, grams)


def _write(request: Request) -> None:
    oldest_first = list(reversed(request.snapshots))
    steps = np.array([each.step - oldest_first[-1].step for each in oldest_first], dtype=np.float64)
    factors = [along_one(gram, steps, request.horizon).tolist() for gram in grams(request)]
    combine_each(request.out, [each.tensors for each in oldest_first], factors)


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
