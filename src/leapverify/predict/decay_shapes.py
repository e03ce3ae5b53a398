"""The states of a constant-rate run, averaged as a decay of the rate would have weighted its steps.

SGD from theta_n with gradients g_1 .. g_k and rate eta passes through theta_{n+j} = theta_{n+j-1} - eta g_j. Under the
rates eta w_1 .. eta w_k the same gradients lead to

    theta_hat = theta_n + sum_j w_j (theta_{n+j} - theta_{n+j-1}) = sum_j c_j theta_{n+j}
    c_0 = 1 - w_1,   c_j = w_j - w_{j+1},   c_k = w_k

exactly, whatever the gradients were. Source: WSM, arXiv 2507.17634.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence


def _linear(done: float) -> float:
    return 1.0 - done


def _cosine(done: float) -> float:
    return (1.0 + math.cos(math.pi * done)) / 2.0


def _sqrt(done: float) -> float:
    return 1.0 - math.sqrt(done)


SHAPES: Mapping[str, Callable[[float], float]] = {"linear": _linear, "cosine": _cosine, "sqrt": _sqrt}
"""Share of the decay that is done -> share of the rate that is left; from 1 to 0, never rising."""


def coefficients(count: int, shape: str) -> list[float]:
    """c_0 .. c_k of k + 1 states, oldest first, for the rates w_j = shape(j / (k + 1)); `linear` gives the plain mean.

    Args:
        count: k + 1, states, at least 1.
        shape: a name of `SHAPES`.

    Returns:
        Weights that are not negative and sum to 1.

    Raises:
        ValueError: no states, or an unknown shape.
    """
    if count < 1:
        raise ValueError(f"count = {count} states have no average: give at least 1")
    if shape not in SHAPES:
        raise ValueError(f"decay shape {shape!r} is unknown: use one of {', '.join(SHAPES)}")
    return [1.0 / count] * count if shape == "linear" or count == 1 else decayed(range(count), shape)


def decayed(steps: Sequence[int], shape: str) -> list[float]:
    """c_0 .. c_k of states at these steps, oldest first, evenly spaced or not.

    The steps from state j - 1 to state j all have the rate w_j = shape(e_j / (e_k + e_k / k)), with e_j the steps from
    the oldest state to state j; that is the decay of `coefficients` where they are even.

    Args:
        steps: increasing, two at least.
        shape: a name of `SHAPES`.

    Returns:
        Weights that are not negative and sum to 1.
    """
    *_, last = elapsed = [step - steps[0] for step in steps]
    whole = last + last / (len(steps) - 1)
    rates = [1.0, *(SHAPES[shape](each / whole) for each in elapsed[1:]), 0.0]
    return [max(0.0, before - after) for before, after in itertools.pairwise(rates)]
