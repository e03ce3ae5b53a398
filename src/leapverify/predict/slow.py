"""Slow weights that follow the run's: lookahead and DiLoCo's outer optimizer, each interval taken as one inner cycle.

The run itself is not disturbed: its snapshots are the slow weights that each cycle began with and the fast ones that it
ended with. The result is the same for every K.
"""

from __future__ import annotations

from collections.abc import Sequence

from leapverify.predict.combination import Combination, chained, of_displacements
from leapverify.predict.predictor import Needs


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
        window: snapshots at most, at least 2; from 2 on it predicts from as many as there are.

    Raises:
        ValueError: other values.
    """
    if lr <= 0 or not 0 <= mu < 1:
        raise ValueError(f"lr = {lr}, mu = {mu} is no outer step: use lr > 0 and 0 <= mu < 1")
    if window < 2:
        raise ValueError(f"a window of {window} snapshots has no interval: use at least 2")

    def older(lags: Sequence[int], _: int) -> tuple[float, ...]:
        momentum = [lr * mu ** (i + 1) for i in range(len(lags) - 1)]
        return of_displacements([momentum[0] + lr - 1, *momentum[1:]])

    return Combination("outer-nesterov", Needs(2, upto=window, horizon=False), older, chained)
