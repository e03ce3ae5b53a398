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
}


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


def test_unknown_names_list_near_ones() -> None:
    with pytest.raises(ValueError, match="unknown predictor 'qadratic': did you mean quadratic"):
        predictor("qadratic")
    with pytest.raises(ValueError, match="unknown predictor 'zzz': did you mean hold, random, linear"):
        predictor("zzz")
    with pytest.raises(ValueError, match="unknown predictor 'taylor-x'"):
        predictor("taylor-x")


def test_options_that_a_predictor_does_not_have_are_named() -> None:
    with pytest.raises(ValueError, match="predictor linear does not take scale"):
        predictor("linear", scale=2.0)
    with pytest.raises(ValueError, match="predictor taylor-3 does not take scale"):
        predictor("taylor-3", scale=2.0)
