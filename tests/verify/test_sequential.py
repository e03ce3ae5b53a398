"""The sequential paired test: its formula, its invariances, and its error rates by Monte Carlo."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, stats

from leapverify.verify.sequential import (
    MINIMUM,
    PRIOR,
    Decision,
    PairedTest,
    confidence_bounds,
    critical_t,
    moments,
)
from sequential_reference import log_bayes_factor, paired_test

Array = NDArray[np.float64]
theorem = settings(max_examples=60)


# --- the formula ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 0.7, -2.0, 4.5])
@pytest.mark.parametrize("count", [4, 20, 200])
def test_bayes_factor_is_the_mixture_of_noncentral_t_densities(count: int, t: float) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(100)
    deltas = 1.8 * nodes
    density = stats.nct.pdf(t, count - 1, deltas * math.sqrt(count)) * stats.norm.pdf(deltas, scale=math.sqrt(PRIOR))
    above = 1.8 * float(weights @ np.nan_to_num(density))
    assert math.exp(log_bayes_factor(count, t)) == pytest.approx(above / stats.t.pdf(t, count - 1), rel=1e-4)


def test_bayes_factor_is_a_martingale_under_a_gaussian_null() -> None:
    for count in (4, 50):
        total, _ = integrate.quad(
            lambda t, n=count: math.exp(log_bayes_factor(n, t)) * stats.t.pdf(t, n - 1), -math.inf, math.inf
        )
        assert total == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("count", [16, 17, 64, 1000, 100_000])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_critical_t_is_where_the_bayes_factor_meets_its_threshold(count: int, alpha: float) -> None:
    critical = critical_t(count, alpha)
    assert math.isfinite(critical)
    assert log_bayes_factor(count, critical) == pytest.approx(-math.log(2.0 * alpha), abs=1e-8)


def test_critical_t_is_infinite_where_no_evidence_suffices() -> None:
    assert critical_t(2) == math.inf
    assert log_bayes_factor(2, math.inf) < math.log(10.0)


@theorem
@given(st.lists(st.floats(-5.0, 5.0), min_size=MINIMUM, max_size=60).filter(lambda gains: np.std(gains) > 1e-3))
def test_the_lower_bound_inverts_the_bayes_factor(gains: list[float]) -> None:
    """For gains that their mirror image makes symmetric, BF of (gains - bound) is 1/(2 alpha)."""
    symmetric = np.array(gains + [-gain for gain in gains]) + 0.25
    bounds = confidence_bounds(symmetric)
    assert abs(moments(symmetric).skewness) < 1e-9
    for bound in bounds:
        shifted = moments(symmetric - bound)
        t = shifted.mean / shifted.std * math.sqrt(shifted.count)
        assert log_bayes_factor(shifted.count, t) == pytest.approx(math.log(10.0), abs=1e-6)


@theorem
@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=50).filter(lambda gains: np.std(gains) > 1e-2))
def test_moments_against_scipy(gains: list[float]) -> None:
    found = moments(gains)
    assert found.mean == pytest.approx(np.mean(gains), rel=1e-9, abs=1e-9)
    assert found.std == pytest.approx(np.std(gains, ddof=1), rel=1e-9)
    assert found.skewness == pytest.approx(float(stats.skew(gains, bias=False)), rel=1e-6, abs=1e-6)


# --- invariances ------------------------------------------------------------------------------------------------------


@theorem
@given(st.lists(st.floats(-3.0, 4.0), min_size=20, max_size=40), st.integers(-900, 900))
def test_the_scale_of_the_gains_does_not_matter(gains: list[float], power: int) -> None:
    """In exact arithmetic any scale; in floating point a power of two is exact too, far beyond what squares allow."""
    values = np.round(np.array(gains), 3)
    plain, scaled = paired_test([values]), paired_test([np.ldexp(values, power)])
    assert plain.decision == scaled.decision
    assert np.ldexp(plain.bounds.lower, power) == scaled.bounds.lower


@theorem
@given(st.permutations(list(range(24))), st.integers(0, 2**32 - 1))
def test_the_order_within_a_batch_does_not_matter(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.normal(0.2, 1.0, 24), rng.normal(0.2, 1.0, 24)
    assert paired_test([first, second]).bounds == paired_test([first[order], second[order]]).bounds


@theorem
@given(st.integers(0, 2**32 - 1))
def test_the_opposite_gains_give_the_opposite_decision(seed: int) -> None:
    gains = np.random.default_rng(seed).standard_gamma(2.0, (8, 8)) - 1.0
    forward, backward = paired_test(gains), paired_test(-gains)
    opposite = {Decision.ACCEPT: Decision.REJECT, Decision.REJECT: Decision.ACCEPT, None: None}
    assert backward.decision == opposite[forward.decision]
    assert backward.bounds.upper == pytest.approx(-forward.bounds.lower, rel=1e-9)


def test_gains_that_are_all_nothing_stay_open_and_equal_gains_are_sure() -> None:
    assert paired_test([np.zeros(500)]).decision is None
    assert paired_test([np.zeros(500)]).bounds == (0.0, 0.0)
    assert paired_test([np.full(MINIMUM, 0.5)]).decision is Decision.ACCEPT
    assert paired_test([np.full(MINIMUM, -0.5)]).decision is Decision.REJECT


def test_skewness_only_ever_widens() -> None:
    gains = np.random.default_rng(3).standard_gamma(0.5, 64)
    found = moments(gains)
    plain = critical_t(64) * found.std / 8.0
    bounds = confidence_bounds(gains)
    assert found.skewness > 1.0
    assert bounds.lower == pytest.approx(found.mean - plain)
    assert bounds.upper > found.mean + 1.2 * plain


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_it_looks_at_batch_ends_from_the_minimum_on() -> None:
    test = PairedTest(minimum=16)
    assert test.update(np.full(15, 1.0)) is None
    assert test.bounds == (-math.inf, math.inf)
    assert test.update([1.0]) is Decision.ACCEPT
    assert test.count == 16


def test_no_batch_is_drawn_after_the_decision() -> None:
    drawn = []

    def batches():  # type: ignore[no-untyped-def]
        for index in range(100):
            drawn.append(index)
            yield np.linspace(0.9, 1.1, 8)

    test = paired_test(batches())
    assert test.decision is Decision.ACCEPT
    assert drawn == [0, 1]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0, math.nan])
def test_a_rate_that_is_none_is_named(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"alpha = {alpha} is no rate of false accepts"):
        PairedTest(alpha)


def test_other_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="prior = -1"):
        PairedTest(prior=-1.0)
    with pytest.raises(ValueError, match="minimum = 1 gains"):
        PairedTest(minimum=1)
    with pytest.raises(ValueError, match="a gain is nan"):
        PairedTest().update([1.0, math.nan])


def test_a_decided_test_takes_no_more() -> None:
    test = paired_test([np.ones(20)])
    with pytest.raises(ValueError, match="decided to accept after 20 gains: start a new one"):
        test.update([1.0])
