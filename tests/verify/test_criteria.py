"""The criteria against their definitions."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leapverify.verify import adaptive, gain_fraction, proximity, recent_sigma, steps_gained, strict

losses = st.floats(0.01, 20.0)
theorem = settings(max_examples=60)


@theorem
@given(losses, losses, st.floats(0.0, 5.0), st.floats(1e-3, 1.0))
def test_definitions(now: float, predicted: float, sigma: float, epsilon: float) -> None:
    assert strict(now, predicted) == (predicted < now)
    assert adaptive(now, predicted, sigma) == (predicted < now + sigma)
    assert proximity(now, predicted, epsilon) == (abs(predicted - now) < epsilon * now)


@theorem
@given(losses, losses, st.floats(0.0, 5.0))
def test_strict_is_the_hardest_of_the_two(now: float, predicted: float, sigma: float) -> None:
    assert adaptive(now, predicted, sigma) or not strict(now, predicted)
    assert adaptive(now, predicted, 0.0) == strict(now, predicted)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_never_passes(bad: float) -> None:
    assert not strict(2.0, bad)
    assert not adaptive(2.0, bad, 1.0)
    assert not proximity(2.0, bad)


def test_an_unchanged_loss_is_near_but_no_improvement() -> None:
    assert not strict(2.0, 2.0)
    assert not adaptive(2.0, 2.0, 0.0)
    assert proximity(2.0, 2.0)


def test_proximity_is_strict_at_its_edge_on_both_sides() -> None:
    assert not proximity(2.0, 2.5, 0.25)
    assert not proximity(2.0, 1.5, 0.25)
    assert proximity(2.0, 2.4375, 0.25)


@theorem
@given(st.lists(losses, min_size=2, max_size=30), st.integers(2, 12))
def test_sigma_is_the_sample_deviation_of_the_window(values: list[float], window: int) -> None:
    recent = values[-window:]
    mean = math.fsum(recent) / len(recent)
    expected = math.sqrt(math.fsum((value - mean) ** 2 for value in recent) / (len(recent) - 1))
    assert recent_sigma(values, window) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_sigma_forgets_what_lies_before_the_window() -> None:
    assert recent_sigma([50.0, 3.0, 2.0, 1.0], window=3) == recent_sigma([3.0, 2.0, 1.0]) == 1.0


@pytest.mark.parametrize("values", [[], [2.0], [math.nan, 2.0]])
def test_sigma_of_too_few_losses_is_nothing(values: list[float]) -> None:
    assert recent_sigma(values) == 0.0


def test_gain_fraction_of_nothing_all_and_more() -> None:
    assert gain_fraction(3.0, 3.0, 2.0) == 0.0
    assert gain_fraction(3.0, 2.0, 2.0) == 1.0
    assert gain_fraction(3.0, 1.0, 2.0) == 2.0
    assert gain_fraction(3.0, 3.5, 2.0) == -0.5


@pytest.mark.parametrize("actual", [None, 3.0, 3.5, math.nan, math.inf])
def test_gain_fraction_needs_a_run_that_improved(actual: float | None) -> None:
    assert gain_fraction(3.0, 2.5, actual) is None


def test_gain_fraction_needs_a_finite_prediction() -> None:
    assert gain_fraction(3.0, math.nan, 2.0) is None
    assert gain_fraction(3.0, math.inf, 2.0) is None


STEPS, CURVE = [50, 55, 60, 75, 100], [3.0, 2.9, 2.6, 2.7, 2.2]


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [(3.0, 0), (3.5, 0), (math.nan, 0), (2.95, 5), (2.9, 5), (2.8, 10), (2.65, 10), (2.3, 50), (2.2, 50), (2.1, None)],
)
def test_steps_gained_is_the_first_measured_step_that_is_as_good(predicted: float, expected: int | None) -> None:
    assert steps_gained(50, 3.0, predicted, STEPS, CURVE) == expected


def test_steps_gained_looks_only_ahead_and_at_no_order() -> None:
    assert steps_gained(60, 2.6, 2.5, [100, 10, 75], [2.2, 1.0, 2.7]) == 40


@theorem
@given(st.lists(losses, min_size=1, max_size=20), losses, losses)
def test_steps_gained_against_brute_force(curve: list[float], now: float, predicted: float) -> None:
    found = steps_gained(0, now, predicted, range(1, len(curve) + 1), curve)
    reached = [step for step, loss in enumerate(curve, 1) if loss <= predicted]
    assert found == (0 if predicted >= now else reached[0] if reached else None)


@pytest.mark.parametrize("sigma", [-0.1, math.nan, math.inf])
def test_a_sigma_that_is_none_is_named(sigma: float) -> None:
    with pytest.raises(ValueError, match=rf"sigma = {sigma} is no standard deviation"):
        adaptive(1.0, 1.0, sigma)


def test_other_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"epsilon = 0\.0 admits no loss"):
        proximity(1.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="window = 1 checkpoints"):
        recent_sigma([1.0, 2.0], window=1)
    with pytest.raises(ValueError, match="2 steps and 1 losses"):
        steps_gained(0, 2.0, 1.0, [1, 2], [1.0])
