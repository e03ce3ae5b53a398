"""Predictors by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any

from leapverify.predict.adam import Momentum, adam, adam_constant
from leapverify.predict.controls import Hold, Random
from leapverify.predict.polynomial import ClampedQuadratic, linear, quadratic, quadratic_paper, taylor
from leapverify.predict.predictor import Predictor

CATALOGUE: dict[str, Callable[..., Predictor]] = {
    "hold": Hold,
    "random": Random,
    "linear": linear,
    "quadratic": quadratic,
    "quadratic-paper": quadratic_paper,
    "quadratic-clamped": ClampedQuadratic,
    "momentum": Momentum,
    "adam": adam,
    "adam-constant": adam_constant,
    "taylor-3": lambda: taylor(3),
    "taylor-4": lambda: taylor(4),
}
"""Name -> factory. `taylor-n` is known for every n from 1 on; two orders stand here for all of them."""


def names() -> tuple[str, ...]:
    """The names in the catalogue."""
    return tuple(CATALOGUE)


def predictor(name: str, **options: Any) -> Predictor:
    """The predictor of a name.

    Args:
        name: one of `names()`, or `taylor-n`.
        options: `scale` of momentum, `seed` of random.

    Raises:
        ValueError: an unknown name (near ones are listed) or an option the predictor does not have.
    """
    order = re.fullmatch(r"taylor-(\d{1,3})", name)
    if order:
        factory: Callable[..., Predictor] = lambda: taylor(int(order[1]))  # noqa: E731
    elif name in CATALOGUE:
        factory = CATALOGUE[name]
    else:
        near = difflib.get_close_matches(name, CATALOGUE, n=3, cutoff=0.5) or list(CATALOGUE)
        raise ValueError(f"unknown predictor {name!r}: did you mean {', '.join(near)}? (taylor-n takes any order n)")
    try:
        return factory(**options)
    except TypeError as error:
        raise ValueError(f"predictor {name} does not take {', '.join(options)}: {error}") from error
