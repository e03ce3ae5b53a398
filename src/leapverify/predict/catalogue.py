"""Predictors by name: every one that there is, and where its formula stands."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from leapverify.predict.adam import adam, adam_constant, momentum, xgrad
from leapverify.predict.anderson import anderson, rre
from leapverify.predict.averaging import anneal, ema_extrapolate, lawa, lookahead, outer_nesterov
from leapverify.predict.controls import hold, random_direction
from leapverify.predict.dmd import dmd
from leapverify.predict.ema_posthoc import ema_posthoc
from leapverify.predict.fast_forward import fast_forward
from leapverify.predict.learnt import introspection, wnn
from leapverify.predict.learnt.introspection import NEEDS as INTROSPECTION_NEEDS
from leapverify.predict.learnt.wnn import NEEDS as WNN_NEEDS
from leapverify.predict.nino import nino, nino_mlp
from leapverify.predict.nino.graph import NEEDS as NINO_NEEDS
from leapverify.predict.nino.mlp import NEEDS as NINO_MLP_NEEDS
from leapverify.predict.plugins import plugin, plugins
from leapverify.predict.polynomial import linear, linear_fit, plp, quadratic, quadratic_clamped, quadratic_paper, taylor
from leapverify.predict.predictor import Needs, Predictor
from leapverify.predict.rank1 import rank_one
from leapverify.predict.subspace import subspace


class Entry(NamedTuple):
    """A row of the catalogue, and of the table in the README."""

    make: Callable[..., Predictor]
    """The factory; its docstring holds the formula, source, claim and cost."""
    where: str
    """Where the weights will be, in a few words; neighbours with the same words share a row."""
    source: str
    shown: str = ""
    """Its name in the table, if that is another."""


_DECAYED = "where a decay of that shape would have led", "WSM, arXiv 2507.17634"
_LOWEST = "lowest in the span of the last displacements, by gradients on sampled batches", "our own"
_TAYLOR = "on the polynomial through n + 1 snapshots", "Kamarthi and Pittner 1999", "taylor-n"

CATALOGUE: dict[str, Entry] = {
    "hold": Entry(hold, "where they are", "control"),
    "random": Entry(random_direction, "as far away as `linear` says, anywhere", "control"),
    "linear": Entry(linear, "on the line through the last two snapshots", "paper, eq. 4"),
    "quadratic": Entry(quadratic, "on the parabola through the last three", "Newton's backward form"),
    "quadratic-paper": Entry(quadratic_paper, "paper's eq. 5 as printed", "paper, eq. 5"),
    "quadratic-clamped": Entry(quadratic_clamped, "the parabola, its bend held down", "the paper's code"),
    "momentum": Entry(momentum, "K m/sqrt(v + eps) on", "paper, eq. 3, as printed"),
    "adam": Entry(adam, "K AdamW steps without a gradient on", "AdamW's recurrences"),
    "adam-constant": Entry(adam_constant, "the next K rates along Adam's present direction", "constant velocity"),
    "taylor-3": Entry(partial(taylor, 3), *_TAYLOR),
    "taylor-4": Entry(partial(taylor, 4), *_TAYLOR),
    "linear-fit": Entry(
        linear_fit, "on the least-squares line of each matrix element", "RLVR-Linearity, arXiv 2601.04537"
    ),
    "plp": Entry(plp, "on the line through the last three optimizer steps", "Sci. Rep. 14:15197, 2024"),
    "xgrad": Entry(xgrad, "K steps along Adam's present one, at its rate", "Guan et al., TPAMI 2024"),
    "lawa-5": Entry(partial(lawa, 5), "in the mean of n snapshots", "Kaddour 2022; Sanyal et al. 2023", "lawa-n"),
    "anneal-linear": Entry(partial(anneal, "linear"), *_DECAYED),
    "anneal-cosine": Entry(partial(anneal, "cosine"), *_DECAYED),
    "anneal-sqrt": Entry(partial(anneal, "sqrt"), *_DECAYED),
    "ema-posthoc": Entry(
        ema_posthoc, "in a running average of any width, put together afterwards", "Karras et al. 2024"
    ),
    "ema-extrapolate": Entry(
        ema_extrapolate,
        "in a mean, and its drift on from there",
        "cf. EMA-Nesterov, arXiv 2605.25395; SNOO, 2510.15830",
    ),
    "lookahead": Entry(lookahead, "half-way back to the snapshot before", "Zhang et al. 2019"),
    "outer-nesterov": Entry(
        outer_nesterov, "where an outer optimizer with momentum leads", "DiLoCo; SNOO, arXiv 2510.15830"
    ),
    "rre": Entry(rre, "at the fixed point of a linear recurrence", "Scieur et al. 2016"),
    "anderson": Entry(anderson, "the same, regularisation picked on held-out loss", "Scieur et al. 2016"),
    "dmd-2": Entry(
        partial(dmd, 2), "where r modes of the differences lead", "Dogra and Redman 2020; Tano et al. 2020", "dmd-r"
    ),
    "rank1": Entry(rank_one, "along the one direction of the deltas to a base", "RELEX, arXiv 2605.21468"),
    "fast-forward": Entry(fast_forward, "the last step again and again while held-out loss falls", "arXiv 2409.04206"),
    "subspace": Entry(subspace, *_LOWEST),
    "subspace-layers": Entry(partial(subspace, per_layer=True), *_LOWEST),
    "introspection": Entry(introspection, "at w(2t), by a network for one weight", "Sinha et al. 2017"),
    "wnn": Entry(wnn, "some intervals on, by a network for one weight", "Jang and Han, ICML 2023"),
    "nino-mlp": Entry(nino_mlp, "the same, by the published network", "Knyazev et al., ICLR 2025"),
    "nino": Entry(nino, "the same, by the published network on the graph of neurons", "Knyazev et al., ICLR 2025"),
}
"""Name -> entry. A new predictor is a file of this folder and a row here; docs and README follow from it."""

FAMILIES: dict[str, Callable[[int], Predictor]] = {"taylor": taylor, "lawa": lawa, "dmd": dmd}
"""Name before the number -> factory: `taylor-n` is known for every n from 1 on; in the catalogue stand some."""

FILES: dict[str, Needs] = {
    "nino-mlp": NINO_MLP_NEEDS,
    "nino": NINO_NEEDS,
    "introspection": INTROSPECTION_NEEDS,
    "wnn": WNN_NEEDS,
}
"""Those that take a file, `NAME:PATH`, and what they need, which is known without the file."""


def names() -> tuple[str, ...]:
    """The names in the catalogue, then those that other packages have registered."""
    return (*CATALOGUE, *(name for name in plugins() if name not in CATALOGUE))


def predictor(name: str, **options: Any) -> Predictor:
    """The predictor of a name: theta_hat = predictor(name).predict(history, horizon).

    Args:
        name: one of `names()`, one of a family (`taylor-7`), or NAME:PATH for one that reads a file.
        options: `scale` of momentum, `seed` of random, `file` of those that read one, ...

    Returns:
        A `Predictor`; its `needs` say what history it reads. `leapverify predictors NAME` prints its formula.

    Raises:
        ValueError: an unknown name (near ones are listed), an option the predictor does not have, or a file that is
            missing or not what it should be.

    Example:
        >>> import torch
        >>> from leapverify import History, predictor
        >>> history = History([torch.zeros(2)], length=3)
        >>> for step, weights in ((0, [0.0, 1.0]), (10, [1.0, 1.0]), (20, [4.0, 1.0])):
        ...     history.push(step, [torch.tensor(weights)])
        >>> predictor("quadratic").predict(history, horizon=10)  # one tensor per tensor of the history
        (tensor([9., 1.]),)
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
        return CATALOGUE[name].make
    numbered = re.fullmatch(r"([a-z0-9-]+)-(0|[1-9][0-9]{0,2})", name)
    if numbered and numbered[1] in FAMILIES:
        return partial(FAMILIES[numbered[1]], int(numbered[2]))
    if name in plugins():
        return plugin(name)
    near = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
    said = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(names())}"
    families = ", ".join(f"{family}-n" for family in FAMILIES)
    raise ValueError(f"unknown predictor {name!r}: {said} ({families}: any number n)")
