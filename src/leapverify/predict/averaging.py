"""Averages of past snapshots and what follows from them: lawa-n, anneal-SHAPE, ema-extrapolate, slow weights.

An average lowers the loss at once by what the noise of the steps cost. It says nothing about where the run goes, so its
result is the same for every K. `lookahead` and `outer-nesterov` take each interval between snapshots as one inner cycle
of an optimizer with slow weights; the run itself is not disturbed. All are `Combination`s: one pass over each snapshot.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from leapverify.predict.combination import Coefficients, Combination, chained, of_displacements
from leapverify.predict.decay_shapes import coefficients, decayed
from leapverify.predict.predictor import Needs


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

    Example:
        >>> lawa(4).coefficients((0, 10, 20, 30), 1)
        (0.25, 0.25, 0.25)
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
        window: snapshots at most, at least 3; it predicts from 3 snapshots on.

    Raises:
        ValueError: a window below 3, or an unknown shape.

    Example:
        >>> [round(c, 3) for c in anneal("sqrt").coefficients((0, 10, 20, 30), 1)]  # theta_1, theta_2, theta_3
        [0.159, 0.207, 0.5]
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
        window: snapshots in the drift at most, n at least; it predicts from n snapshots on.
        beta: share of the drift, not negative.

    Raises:
        ValueError: other values.

    Example:
        >>> [round(share, 4) for share in drift((0, 10, 20))]  # of theta_t - theta_1 and theta_1 - theta_2
        [0.0622, 0.0378]
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


def lookahead(alpha: float = 0.5) -> Combination:
    """slow + alpha (fast - slow), slow = theta_1 and fast = theta_t: one cycle over the newest interval.

    Source: Lookahead, Zhang et al., NeurIPS 2019.
    Claim: faster convergence and lower variance than SGD and Adam alone on CIFAR, ImageNet, language modelling and
    translation, where every cycle of 5 to 10 steps ends so; here one does, of Delta steps.
    Cost: two reads and a write.

    Args:
        alpha: the slow step, above 0 and at most 1.

    Raises:
        ValueError: another value.

    Example:
        >>> lookahead(0.8).coefficients((0, 10), 1)[0].__round__(3)
        0.2
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha = {alpha} is no step towards the fast weights: use 0 < alpha <= 1")
    return Combination("lookahead", Needs(2, horizon=False), lambda *_: (1 - alpha,), chained)


def outer_nesterov(lr: float = 0.7, mu: float = 0.9, window: int = 8) -> Combination:
    """w = slow - lr (slow - fast + mu b), with b = mu b + (slow - fast) over the ring's intervals, oldest first.

    Each interval is one inner run, from its slow to its fast weights, whatever its steps; b begins at 0 with the oldest
    one, and w is the outer step of the newest.
    Source: DiLoCo (Douillard et al., arXiv 2311.08105), whose outer optimizer is Nesterov's; with one worker it is SNOO
    (arXiv 2510.15830).
    Claim: as an outer optimizer around AdamW it lowers the loss of language models at equal steps, when every inner run
    starts from its w; here the inner runs were those of the undisturbed run.
    Cost: a read of each snapshot in the window and a write.

    Args:
        lr: outer rate, above 0.
        mu: outer momentum, at least 0 and below 1.
        window: snapshots at most, at least 2; it predicts from 2 snapshots on.

    Raises:
        ValueError: other values.

    Example:
        >>> [round(c, 3) for c in outer_nesterov().coefficients((0, 10, 20), 1)]
        [0.237, -0.567]
    """
    if lr <= 0 or not 0 <= mu < 1:
        raise ValueError(f"lr = {lr}, mu = {mu} is no outer step: use lr > 0 and 0 <= mu < 1")
    if window < 2:
        raise ValueError(f"a window of {window} snapshots has no interval: use at least 2")

    def older(lags: Sequence[int], _: int) -> tuple[float, ...]:
        momentum = [lr * mu ** (i + 1) for i in range(len(lags) - 1)]
        return of_displacements([momentum[0] + lr - 1, *momentum[1:]])

    return Combination("outer-nesterov", Needs(2, upto=window, horizon=False), older, chained)
