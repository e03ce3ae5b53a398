"""Averages of past snapshots, and extrapolation from them: lawa-n, anneal-SHAPE, ema-extrapolate.

An average lowers the loss at once by what the noise of the steps cost, and says nothing about where the run goes: its
result is the same for every K. All are `Combination`s: one pass over each snapshot that is read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from leapverify.predict.combination import Coefficients, Combination, chained, of_displacements
from leapverify.predict.predictor import Needs
from leapverify.predict.shapes import coefficients, decayed


def lawa(n: int = 5) -> Combination:
    """(theta_t + theta_1 + ... + theta_{n-1}) / n, the plain mean of the n newest snapshots; K plays no part.

    Source: LAWA, Kaddour 2022 ("Stop wasting my time!"); Sanyal et al. 2023 ("Early weight averaging meets high
    learning rates").
    Claim: the mean of the last checkpoints reaches a loss earlier than the run itself does, in ImageNet and masked
    language modelling (2022) and in pre-training of GPT-2 and Pythia at high rates (2023), for evaluation; the run
    itself goes on from its raw weights.
    Cost: n reads and a write.

    Args:
        n: snapshots, at least 2.

    Raises:
        ValueError: fewer.
    """
    if n < 2:
        raise ValueError(f"lawa-{n} averages nothing: average at least 2 snapshots, or hold")
    return Combination(f"lawa-{n}", Needs(n, horizon=False), lambda lags, _: (1 / n,) * (len(lags) - 1), chained)


def anneal(shape: str, window: int = 8) -> Combination:
    """sum_j c_j theta_j, the weights after a decay of the rate over the window; K plays no part.

    With the decay's shape 1 >= w_1 >= ... >= w_k >= 0 over the k intervals, oldest first: c_0 = 1 - w_1,
    c_j = w_j - w_{j+1}, c_k = w_k, which is what SGD at a constant rate would have reached with the same gradients at
    rates w_j times as large. Of uneven intervals each has the rate of its place among the true steps.
    Source: WSM (arXiv 2507.17634, ICLR 2026).
    Claim: merging the checkpoints of a constant-rate run beats decaying the rate (WSD), in pre-training of large
    language models.
    Cost: a read of each snapshot in the window and a write.

    Args:
        shape: linear (over even intervals the plain mean), cosine, or sqrt (1 - sqrt).
        window: snapshots at most, at least 3; from 3 on it predicts from as many as there are.

    Raises:
        ValueError: fewer, or an unknown shape.
    """
    if window < 3:
        raise ValueError(f"a window of {window} snapshots is no decay: use at least 3")
    coefficients(window, shape)  # refuses an unknown shape now

    def older(lags: Sequence[int], _: int) -> tuple[float, ...]:
        return tuple(decayed([-lag for lag in reversed(lags)], shape)[-2::-1])

    return Combination(f"anneal-{shape}", Needs(3, upto=window, horizon=False), older, chained)


def ema_extrapolate(n: int = 5, window: int = 8, beta: float = 1.0) -> Combination:
    """mean(theta_t, ..., theta_{n-1}) + beta K v: low-pass first, then extrapolate along the drift v.

    v is the exponential moving average of the displacement per step. Between two snapshots the steps count as equal
    ones, u_i = (theta_i - theta_{i+1}) / (l_{i+1} - l_i), with l_i the lag of snapshot i; a step of age a weighs
    exp(-a / tau), so that v = sum_i q_i u_i with q_i ~ exp(-l_i / tau) - exp(-l_{i+1} / tau), sum_i q_i = 1, over all
    snapshots of the window and with tau the steps that they span: the oldest displacement weighs 1/e of the newest.
    Intervals may be uneven.

    On a straight line theta(s) = a + b s it gives theta(t - l + beta K), with l the mean lag of the n snapshots: the
    mean lies in the past, and from there, not from theta_t, it goes K steps on.
    Source: in the line of EMA-Nesterov (arXiv 2605.25395) and SNOO (arXiv 2510.15830), which extrapolate from slow
    weights; no paper gives this form.
    Claim: in a first trial (0.1 M parameters, Delta = K = 25) 20 of 21 predictions were accepted, 0 of 72 of `linear`.
    Cost: a read of each snapshot in the window and a write.

    Args:
        n: snapshots in the mean, at least 2.
        window: snapshots in the drift at most, n at least; from n on it predicts from as many as there are.
        beta: share of the drift, not negative.

    Raises:
        ValueError: other values.
    """
    if not 2 <= n <= window:
        raise ValueError(f"a mean of {n} snapshots in a window of {window}: use 2 <= n <= window")
    if beta < 0:
        raise ValueError(f"beta = {beta} walks back: use beta >= 0")
    return Combination("ema-extrapolate", Needs(n, upto=window), _drifting_mean(n, beta), chained)


def _drifting_mean(n: int, beta: float) -> Coefficients:
    """Weights of the older snapshots in mean + beta K v."""

    def older(lags: Sequence[int], horizon: int) -> tuple[float, ...]:
        to_mean = [-(n - 1 - i) / n if i < n else 0.0 for i in range(len(lags) - 1)]
        ahead = [beta * horizon * share for share in drift(lags)]
        return of_displacements([back + on for back, on in zip(to_mean, ahead, strict=True)])

    return older


def drift(lags: Sequence[int]) -> list[float]:
    """The weight of each displacement theta_i - theta_{i+1}, newest first, in v: q_i / (l_{i+1} - l_i)."""
    left = [math.exp(-lag / lags[-1]) for lag in lags]
    whole = left[0] - left[-1]
    return [
        (now - before) / whole / (lag_before - lag)
        for (now, before), (lag, lag_before) in zip(itertools.pairwise(left), itertools.pairwise(lags), strict=True)
    ]
