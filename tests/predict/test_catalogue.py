"""The catalogue: names, options, and what it says about names it does not know."""

from __future__ import annotations

import pytest

from leapverify.predict import Needs, names, predictor

TABLE = {
    "hold": Needs(1),
    "random": Needs(2),
    "linear": Needs(2),
    "quadratic": Needs(3),
    "quadratic-paper": Needs(3),
    "quadratic-clamped": Needs(3),
    "momentum": Needs(1, optimizer_state=True),
    "adam": Needs(1, optimizer_state=True),
    "adam-constant": Needs(1, optimizer_state=True),
    "taylor-3": Needs(4),
    "plp": Needs(1, recent=3),
    "xgrad": Needs(1, optimizer_state=True),
    "lawa-5": Needs(5, horizon=False),
    "anneal-linear": Needs(3, upto=8, horizon=False),
    "anneal-cosine": Needs(3, upto=8, horizon=False),
    "anneal-sqrt": Needs(3, upto=8, horizon=False),
    "ema-posthoc": Needs(1, averages=True, horizon=False),
    "ema-extrapolate": Needs(5, upto=8),
    "lookahead": Needs(2, horizon=False),
    "outer-nesterov": Needs(2, upto=8, horizon=False),
    "rre": Needs(3, upto=16, even=True, horizon=False),
    "anderson": Needs(3, upto=16, even=True, selection=True, horizon=False),
    "dmd-2": Needs(4, upto=6, even=True),
    "rank1": Needs(3, upto=16),
    "linear-fit": Needs(3, upto=8),
    "fast-forward": Needs(1, recent=2, selection=True, horizon=False),
    "introspection": Needs(1, milestones=(0.7, 0.4, 0.0), horizon=False),
    "wnn": Needs(5, even=True),
    "subspace": Needs(3, upto=5, gradients=True, horizon=False),
    "subspace-layers": Needs(3, upto=5, gradients=True, horizon=False),
}
"""Every row of the method and of the literature, but those that cannot be had without a file."""


@pytest.mark.parametrize(("name", "needs"), TABLE.items())
def test_every_row_of_the_method_is_there_with_its_needs(name: str, needs: Needs) -> None:
    assert name in names()
    assert predictor(name).needs == needs


def test_taylor_takes_any_order_from_one_on() -> None:
    assert predictor("taylor-1").needs == Needs(2)
    assert predictor("taylor-17").needs == Needs(18)
    assert predictor("taylor-17").name == "taylor-17"
    with pytest.raises(ValueError, match="taylor-0 has no slope: use an order of at least 1"):
        predictor("taylor-0")


@pytest.mark.parametrize(("family", "snapshots"), [("lawa", 7), ("dmd", 9), ("taylor", 8)])
def test_families_take_any_number(family: str, snapshots: int) -> None:
    assert predictor(f"{family}-7").name == f"{family}-7"
    assert predictor(f"{family}-7").needs.snapshots == snapshots


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lawa-1", "lawa-1 averages nothing: average at least 2 snapshots, or hold"),
        ("dmd-0", "dmd-0 follows no mode: use a rank of at least 1, or hold"),
        ("linear:weights.pt", "predictor 'linear:weights.pt' names a file: nino-mlp:PATH, nino:PATH"),
        ("lawa-05", "unknown predictor 'lawa-05': did you mean lawa-5"),
        ("lawa-\u0663", "unknown predictor 'lawa-"),
        ("nino:", "predictor 'nino:' names a file"),
        ("wnn:C:\\runs\\a.safetensors", r"C:\\runs\\a\.safetensors is missing"),
        ("wnn:/runs/a:b.safetensors", "/runs/a:b.safetensors is missing"),
        ("nino-mlp:nowhere.pt", "nowhere.pt"),
        ("wnn:nowhere.safetensors", "nowhere.safetensors"),
        ("nino", "nino:PATH"),
        ("anneal-linaer", "did you mean anneal-linear"),
    ],
)
def test_wrong_names_are_refused_in_a_sentence(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor(name)


def test_unknown_names_list_near_ones() -> None:
    with pytest.raises(ValueError, match="unknown predictor 'qadratic': did you mean quadratic"):
        predictor("qadratic")
    with pytest.raises(ValueError, match="unknown predictor 'zzz': there are hold, random, linear"):
        predictor("zzz")
    with pytest.raises(ValueError, match="unknown predictor 'taylor-x'"):
        predictor("taylor-x")


def test_options_that_a_predictor_does_not_have_are_named() -> None:
    with pytest.raises(ValueError, match="predictor linear does not take scale"):
        predictor("linear", scale=2.0)
    with pytest.raises(ValueError, match="predictor taylor-3 does not take scale"):
        predictor("taylor-3", scale=2.0)
