"""What costs next to nothing and helps: averages of the weights (EMA, LAWA), and Lookahead's slow weights.

None of them runs a forward pass, so they cost no tokens; the seconds that they take are the caller's to measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from leapverify.core.weights import copy_


class WeightAverage(Protocol):
    """Weights that follow a run's own."""

    def after(self, step: int) -> None:
        """Take in the weights as they are after real step `step`, from 1."""

    def write(self, out: Sequence[Tensor]) -> None:
        """Write the followed weights into `out`."""


class EMA:
    """Exponential moving average: a = a + (theta - a)/min(t, W).

    The plain mean of all states until W steps are done, an average of decay 1 - 1/W from there on: the untrained
    weights do not stay in it.

    Args:
        parameters: of the run; read after every step.
        window: W, steps.
    """

    def __init__(self, parameters: Sequence[Tensor], window: int) -> None:
        if window < 1:
            raise ValueError(f"an EMA over {window} steps averages nothing: give at least 1")
        self._parameters = [each.detach() for each in parameters]
        self._mean = [each.clone() for each in self._parameters]
        self._window = window

    def after(self, step: int) -> None:
        """Take in the weights after real step `step`."""
        torch._foreach_lerp_(self._mean, self._parameters, 1 / min(step, self._window))

    def write(self, out: Sequence[Tensor]) -> None:
        """Write the average into `out`."""
        copy_(out, self._mean)


class LAWA:
    """Mean of the latest `count` states, each `every` steps apart (Kaddour 2022).

    Args:
        parameters: of the run.
        every: steps between states.
        count: states in the mean, of which as many copies are kept.
    """

    def __init__(self, parameters: Sequence[Tensor], every: int, count: int) -> None:
        if every < 1 or count < 1:
            raise ValueError(f"LAWA over {count} states, {every} steps apart, averages nothing: give at least 1 each")
        self._parameters = [each.detach() for each in parameters]
        self._every = every
        self._ring = [[torch.empty_like(each) for each in self._parameters] for _ in range(count)]
        self._taken = 0

    def after(self, step: int) -> None:
        """Take in the weights after real step `step`, if it is one of those that count."""
        if step % self._every == 0:
            copy_(self._ring[self._taken % len(self._ring)], self._parameters)
            self._taken += 1

    def write(self, out: Sequence[Tensor]) -> None:
        """Write the mean into `out`; the present weights while no state has been taken."""
        held = self._ring[: min(self._taken, len(self._ring))]
        if not held:
            copy_(out, self._parameters)
            return
        total = [each.clone() for each in held[0]]
        for state in held[1:]:
            torch._foreach_add_(total, state)
        torch._foreach_div_(total, float(len(held)))
        copy_(out, total)


class Lookahead:
    """k steps forward, one step back (Zhang et al. 2019): every k steps slow += alpha (fast - slow), fast = slow.

    Args:
        parameters: the fast weights; written every k steps.
        k: steps forward.
        alpha: share of the way that is kept.
    """

    def __init__(self, parameters: Sequence[Tensor], k: int = 5, alpha: float = 0.5) -> None:
        if k < 1 or not 0 < alpha <= 1:
            raise ValueError(f"Lookahead with k {k} and alpha {alpha}: give k of at least 1 and alpha above 0, up to 1")
        self._fast = [each.detach() for each in parameters]
        self._slow = [each.clone() for each in self._fast]
        self._k, self._alpha = k, alpha

    def after(self, step: int) -> None:
        """Take in the weights after real step `step`; every k steps they become the slow ones."""
        if step % self._k == 0:
            torch._foreach_lerp_(self._slow, self._fast, self._alpha)
            copy_(self._fast, self._slow)

    def write(self, out: Sequence[Tensor]) -> None:
        """Write the slow weights into `out`."""
        copy_(out, self._slow)


@contextmanager
def swapped(parameters: Sequence[Tensor], weights: Sequence[Tensor]) -> Iterator[None]:
    """Have other weights in the parameters for a block; the old ones come back bit by bit, also after an exception.

    Args:
        parameters: written in place.
        weights: of the same shapes.
    """
    held = [each.detach() for each in parameters]
    kept = [each.clone() for each in held]
    copy_(held, weights)
    try:
        yield
    finally:
        copy_(held, kept)
