"""Predictors by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from leapverify.predict.acceleration import Anderson, ReducedRank
from leapverify.predict.adam import Momentum, adam, adam_constant, xgrad
from leapverify.predict.averaging import anneal, ema_extrapolate, lawa
from leapverify.predict.consecutive import plp
from leapverify.predict.controls import Hold, Random
from leapverify.predict.forward import FastForward
from leapverify.predict.learnt import introspection, wnn
from leapverify.predict.modes import RankOne, dmd
from leapverify.predict.nino import nino, nino_mlp
from leapverify.predict.plugins import plugin, plugins
from leapverify.predict.polynomial import ClampedQuadratic, linear, linear_fit, quadratic, quadratic_paper, taylor
from leapverify.predict.posthoc import PostHocEMA
from leapverify.predict.predictor import Predictor
from leapverify.predict.slow import lookahead, outer_nesterov
from leapverify.predict.subspace import subspace

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
    "taylor-3": partial(taylor, 3),
    "taylor-4": partial(taylor, 4),
    "linear-fit": linear_fit,
    "plp": plp,
    "xgrad": xgrad,
    "lawa-5": partial(lawa, 5),
    "anneal-linear": partial(anneal, "linear"),
    "anneal-cosine": partial(anneal, "cosine"),
    "anneal-sqrt": partial(anneal, "sqrt"),
    "ema-posthoc": PostHocEMA,
    "ema-extrapolate": ema_extrapolate,
    "lookahead": lookahead,
    "outer-nesterov": outer_nesterov,
    "rre": ReducedRank,
    "anderson": Anderson,
    "dmd-2": partial(dmd, 2),
    "rank1": RankOne,
    "fast-forward": FastForward,
    "subspace": subspace,
    "subspace-layers": partial(subspace, per_layer=True),
    "introspection": introspection,
    "wnn": wnn,
    "nino-mlp": nino_mlp,
    "nino": nino,
}
"""Name -> factory."""

FAMILIES: dict[str, Callable[[int], Predictor]] = {"taylor": taylor, "lawa": lawa, "dmd": dmd}
"""Name before the number -> factory: `taylor-n` is known for every n from 1 on; in the catalogue stand some."""

FILES = ("nino-mlp", "nino", "introspection", "wnn")
"""Those that take a file: `NAME:PATH`."""


def names() -> tuple[str, ...]:
    """The names in the catalogue, then those that other packages have registered."""
    return (*CATALOGUE, *(name for name in plugins() if name not in CATALOGUE))


def predictor(name: str, **options: Any) -> Predictor:
    """The predictor of a name.

    Args:
        name: one of `names()`, one of a family (`taylor-7`), or NAME:PATH for one that reads a file.
        options: `scale` of momentum, `seed` of random, `file` of those that read one, ...

    Raises:
        ValueError: an unknown name (near ones are listed), an option the predictor does not have, or a file that is
            missing or not what it should be.
    """
    base, colon, path = name.partition(":")
    if colon:
        if base not in FILES or not path:
            raise ValueError(f"predictor {name!r} names a file: {', '.join(f'{each}:PATH' for each in FILES)} do")
        options = {"file": path, **options}
    factory = factory_of(base)
    try:
        return factory(**options)
    except TypeError as error:
        if not options:
            raise
        raise ValueError(f"predictor {name} does not take {', '.join(options)}: {error}") from error


def factory_of(name: str) -> Callable[..., Predictor]:
    """What makes the predictor of a name, without a file.

    Raises:
        ValueError: an unknown name (near ones are listed).
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    numbered = re.fullmatch(r"([a-z0-9-]+)-(0|[1-9][0-9]{0,2})", name)
    if numbered and numbered[1] in FAMILIES:
        return partial(FAMILIES[numbered[1]], int(numbered[2]))
    if name in plugins():
        return plugin(name)
    near = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
    said = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(names())}"
    families = ", ".join(f"{family}-n" for family in FAMILIES)
    raise ValueError(f"unknown predictor {name!r}: {said} ({families}: any number n)")
