"""Polynomial predictors: exact on polynomials, equal to the formulas of the method in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leapverify.predict import predictor
from leapverify.predict.polynomial import lagrange
from leapverify.trajectory.history import History

EVEN = tuple(range(50, 450, 50))
UNEVEN = (3, 50, 61, 100, 180, 200, 290, 300)
HORIZONS = (1, 5, 25, 50, 100, 333)

ORDERS = [("linear", 1), ("quadratic", 2), *((f"taylor-{n}", n) for n in range(1, 7))]


def trajectory(degree: int, steps: Sequence[int], generator: torch.Generator) -> tuple[History, list[Tensor]]:
    """A float64 polynomial in step / 100 with random coefficients, pushed in float32."""
    coefficients = [torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(degree + 1)]
    history = History([torch.zeros(6, 4)], len(steps))
    for step in steps:
        history.push(step, [polynomial(coefficients, step)])
    return history, coefficients


def polynomial(coefficients: Sequence[Tensor], step: float) -> Tensor:
    return sum((c * (step / 100) ** power for power, c in enumerate(coefficients)), torch.zeros(()))


def condition(steps: Sequence[int], horizon: int, size: float) -> float:
    """What rounding the snapshots to float32 alone can change: half a unit of each, times its weight."""
    lags = [steps[-1] - step for step in reversed(steps)]
    older = lagrange(lags, horizon)
    return (abs(1 - sum(older)) + sum(abs(c) for c in older)) * size * 2.0**-24


@pytest.mark.parametrize(("name", "degree"), ORDERS)
@pytest.mark.parametrize("steps", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("horizon", HORIZONS)
def test_exact_on_its_polynomials(name: str, degree: int, steps: tuple[int, ...], horizon: int) -> None:
    history, coefficients = trajectory(degree, steps, torch.Generator().manual_seed(degree))
    expected = polynomial(coefficients, steps[-1] + horizon)
    used = steps[-degree - 1 :]
    size = max(float(each.tensors[0].abs().max()) for each in list(history)[-degree - 1 :])
    allowed = 4 * condition(used, horizon, size) + 2.0**-23 * float(expected.abs().max())
    error = (predictor(name).predict(history, horizon)[0].double() - expected).abs().max()
    assert float(error) <= allowed


@pytest.mark.parametrize(("name", "degree"), ORDERS)
def test_exact_to_the_bit_on_small_integers(name: str, degree: int) -> None:
    """Where no rounding occurs, equality is equality: integers, K a multiple of Delta."""
    steps = [4 * number for number in range(degree + 1)]
    history = History([torch.zeros(3)], degree + 1)
    base = torch.tensor([-1.0, 0.0, 2.0])
    for step in steps:
        history.push(step, [base + (step / 4) ** degree])
    predicted = predictor(name).predict(history, 8)[0]
    assert torch.equal(predicted, base + float((degree + 2) ** degree))


def test_one_degree_more_is_not_exact() -> None:
    history, coefficients = trajectory(3, EVEN, torch.Generator().manual_seed(0))
    predicted = predictor("quadratic").predict(history, 50)[0]
    assert float((predicted - polynomial(coefficients, EVEN[-1] + 50)).abs().max()) > 0.1


def formula(name: str, now: Tensor, one: Tensor, two: Tensor, s: float) -> Tensor:
    """The table of the method, for equal intervals, in float64."""
    d1, d2 = now - one, now - 2 * one + two
    if name == "quadratic-clamped":
        limit = d1.norm() / 2
        return now + s * d1 + s * s / 2 * (d2 * (limit / d2.norm()) if d2.norm() > limit else d2)
    factor = {"linear": 0.0, "quadratic": s * (s + 1) / 2, "quadratic-paper": s * (s - 1) / 2}[name]
    return now + s * d1 + factor * d2


@pytest.mark.parametrize("name", ["linear", "quadratic", "quadratic-paper", "quadratic-clamped"])
@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("bend", [1e-3, 1.0], ids=["gentle", "sharp"])
def test_equals_the_printed_formula(name: str, horizon: int, bend: float) -> None:
    generator = torch.Generator().manual_seed(5)
    start, drift, curve = (torch.randn(40, generator=generator) for _ in range(3))
    points = [start + number * drift + bend * number**2 * curve for number in range(3)]
    history = History([start], 3)
    for number, each in enumerate(points):
        history.push(50 * number, [each])
    two, one, now = (each.double() for each in points)
    expected = formula(name, now, one, two, horizon / 50)
    got = predictor(name).predict(history, horizon)[0].double()
    torch.testing.assert_close(got, expected, rtol=2e-6, atol=2e-5)


def test_clamped_scales_each_tensor_by_its_own_norms() -> None:
    """Uneven steps: d2 is 2 h1^2 times the divided difference."""
    history = History([torch.zeros(2), torch.zeros(2)], 3)
    points = [(0, [0.0, 0.0], [0.0, 0.0]), (20, [1.0, 0.0], [2.0, 4.0]), (30, [1.0, 1.0], [3.0, 6.0])]
    for step, left, right in points:
        history.push(step, [torch.tensor(left), torch.tensor(right)])
    h1, h2, s = 10, 20, 2.0
    expected = []
    for two, one, now in zip(*[[torch.tensor(p[i], dtype=torch.float64) for i in (1, 2)] for p in points], strict=True):
        d1 = now - one
        d2 = 2 * h1 * h1 * (d1 / h1 - (one - two) / h2) / (h1 + h2)
        scale = min(1.0, float(d1.norm() / (2 * d2.norm()))) if float(d2.norm()) else 1.0
        expected.append(now + s * d1 + s * s / 2 * scale * d2)
    for got, wanted in zip(predictor("quadratic-clamped").predict(history, 20), expected, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=1e-6)


def test_the_papers_quadratic_is_linear_one_interval_on_and_damps_before() -> None:
    history, _ = trajectory(2, (100, 150, 200), torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        predictor("quadratic-paper").predict(history, 50)[0], predictor("linear").predict(history, 50)[0]
    )
    now = history[-1].tensors[0]
    printed, parabola, line = (
        predictor(name).predict(history, 25)[0] - now for name in ("quadratic-paper", "quadratic", "linear")
    )
    torch.testing.assert_close(printed - line, -(parabola - line) / 3, rtol=1e-4, atol=1e-5)


@settings(max_examples=60)
@given(gaps=st.lists(st.integers(1, 90), min_size=1, max_size=6), horizon=st.integers(1, 500))
def test_weights_reproduce_every_power_up_to_their_degree(gaps: list[int], horizon: int) -> None:
    lags = [sum(gaps[:n]) for n in range(len(gaps) + 1)]
    older = lagrange(lags, horizon)
    for power in range(1, len(lags)):
        terms = [c * (-lag / 100) ** power for c, lag in zip(older, lags[1:], strict=True)]
        assert sum(terms) == pytest.approx((horizon / 100) ** power, abs=1e-11 * sum(map(abs, terms)))


def test_large_coefficients_do_not_multiply_the_rounding_of_the_weights() -> None:
    """Weights near 1000 that move by 2^-14 a step: the differences are exact, so is the line through them."""
    history = History([torch.zeros(9)], 2)
    start = torch.arange(1000.0, 1009.0)
    history.push(1, [start])
    history.push(2, [start + 2.0**-14])
    assert torch.equal(predictor("linear").predict(history, 4096)[0], start + 4097 * 2.0**-14)
    assert torch.equal(predictor("taylor-1").predict(history, 4096)[0], start + 4097 * 2.0**-14)
