"""Shapes of a decay: the average of a constant-rate run is what the decayed rates would have led to."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leapverify.predict.decay_shapes import SHAPES, coefficients


def run(start: torch.Tensor, gradients: list[torch.Tensor], rates: list[float]) -> list[torch.Tensor]:
    """The states of SGD from `start`, the first included."""
    states = [start]
    for gradient, rate in zip(gradients, rates, strict=True):
        states.append(states[-1] - rate * gradient)
    return states


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [1, 2, 5, 16])
def test_decayed_sgd_is_the_average_of_constant_rate_sgd(shape: str, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    start = torch.randn(50, generator=generator, dtype=torch.float64)
    gradients = [torch.randn(50, generator=generator, dtype=torch.float64) for _ in range(k)]
    eta = 0.05
    states = run(start, gradients, [eta] * k)
    rates = [eta * SHAPES[shape](j / (k + 1)) for j in range(1, k + 1)]
    decayed = run(start, gradients, rates)[-1]
    averaged = sum(c * state for c, state in zip(coefficients(k + 1, shape), states, strict=True))
    torch.testing.assert_close(averaged, decayed, rtol=0, atol=1e-15 * k * 10)


def test_the_theorem_holds_without_any_rounding() -> None:
    generator = torch.Generator().manual_seed(1)
    k, eta = 7, 2.0**-4  # k + 1 and eta are powers of two, gradients are integers: float64 holds all of it exactly
    start, *gradients = (torch.randint(-9, 9, (40,), generator=generator).double() for _ in range(k + 1))
    decayed = run(start, gradients, [eta * SHAPES["linear"](j / (k + 1)) for j in range(1, k + 1)])[-1]
    states = run(start, gradients, [eta] * k)
    assert torch.equal(sum(c * state for c, state in zip(coefficients(8, "linear"), states, strict=True)), decayed)
    assert torch.equal(torch.stack(states).mean(0), decayed)


@settings(max_examples=80)
@given(count=st.integers(1, 200), shape=st.sampled_from(sorted(SHAPES)))
def test_weights_are_an_average(count: int, shape: str) -> None:
    found = coefficients(count, shape)
    assert len(found) == count
    assert min(found) >= 0.0
    assert math.fsum(found) == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_coefficients_are_differences_of_the_rates(shape: str) -> None:
    count = 9
    w = [SHAPES[shape](j / count) for j in range(count)]
    expected = [1.0 - w[1], *(w[j] - w[j + 1] for j in range(1, count - 1)), w[-1]]
    assert coefficients(count, shape) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("count", [1, 3, 7, 49])
def test_linear_is_the_plain_mean(count: int) -> None:
    assert coefficients(count, "linear") == [float(Fraction(1, count))] * count


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_fall_from_one_to_nothing(shape: str) -> None:
    values = [SHAPES[shape](done / 20) for done in range(21)]
    assert values[0] == 1.0
    assert values[-1] == pytest.approx(0.0, abs=1e-15)
    assert values == sorted(values, reverse=True)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="count = 0 states have no average: give at least 1"):
        coefficients(0, "linear")
    with pytest.raises(ValueError, match="decay shape 'exp' is unknown: use one of linear, cosine, sqrt"):
        coefficients(3, "exp")
