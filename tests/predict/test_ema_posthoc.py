"""Post-hoc EMA: a kept average to the bit, another one to within what its profile leaves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from leapverify.errors import Declined
from leapverify.predict import predictor
from leapverify.trajectory.averages import PowerAverages, Profile, exponent, mixture
from leapverify.trajectory.history import History


def run(count: int, width: float, noise: float = 0.1) -> tuple[History, Tensor]:
    """A history and, in float64, the power average of this width kept directly from the first state on."""
    generator = torch.Generator().manual_seed(count)
    gamma, average = exponent(width), torch.zeros(20, 10, dtype=torch.float64)
    start, end = torch.randn(2, 20, 10, generator=generator)
    history = History([start], 2)
    history.averages = PowerAverages()
    for number in range(1, count + 1):
        state = torch.lerp(start, end, number / count) + noise * torch.randn(20, 10, generator=generator)
        history.push(50 * number, [state])
        average = average + (1 - (1 - 1 / number) ** (gamma + 1)) * (state.double() - average)
    return history, average


@pytest.mark.parametrize("count", [5, 30, 200])
@pytest.mark.parametrize("width", [0.05, 0.10])
def test_a_kept_width_is_the_kept_average_to_the_bit(count: int, width: float) -> None:
    history, average = run(count, width)
    got = predictor("ema-posthoc", width=width).predict(history, 10)[0]
    assert history.averages is not None
    kept = history.averages.states[-2 if width == 0.05 else -1]
    assert torch.equal(got, kept.tensors[0])
    torch.testing.assert_close(got.double(), average, rtol=0, atol=2e-6)


@pytest.mark.parametrize("count", [5, 30, 200])
@pytest.mark.parametrize("width", [0.07, 0.15, 0.20])
def test_another_width_is_met_to_within_what_the_profile_leaves(count: int, width: float) -> None:
    """By Cauchy and Schwarz: the error is at most the profiles' distance times the trajectory's norm about its mean."""
    history, average = run(count, width)
    assert history.averages is not None
    wanted = Profile(count, exponent(width))
    _, left = mixture([each.profile for each in history.averages.states], wanted)
    got = predictor("ema-posthoc", width=width).predict(history, 10)[0].double()
    error = (got - average).norm()
    single = min((each.tensors[0].double() - average).norm() for each in history.averages.states)
    assert float(error) < 0.5 * float(single)  # far better than the nearest one that is kept
    gamma = wanted.gamma
    norm = (gamma + 1) / (2 * gamma + 1) ** 0.5 / count**0.5  # of p, in L2 over tau
    # Drift of up to |end - start| / 2 about the middle and 4 deviations of noise, at each of `count` states.
    reach = count**0.5 * ((average.numel() ** 0.5) * (2**0.5 / 2 + 4 * 0.1))
    assert float(error) <= left * norm * reach + 1e-4


def test_the_default_width_and_every_horizon() -> None:
    history, _ = run(30, 0.15)
    method = predictor("ema-posthoc")
    assert not method.needs.horizon
    expected = predictor("ema-posthoc", width=0.15).predict(history, 1)[0]
    assert torch.equal(method.predict(history, 1000)[0], expected)


def test_weights_at_rest_rest_to_the_bit() -> None:
    weights = torch.randn(40, generator=torch.Generator().manual_seed(2)) * 1000
    history = History([weights], 2)
    history.averages = PowerAverages()
    for step in range(1, 30):
        history.push(step, [weights])
    assert torch.equal(predictor("ema-posthoc").predict(history, 5)[0], weights)


def test_one_state_is_its_own_average() -> None:
    history, _ = run(1, 0.15)
    torch.testing.assert_close(
        predictor("ema-posthoc").predict(history, 5)[0], history[-1].tensors[0], rtol=2.0**-22, atol=0
    )


def test_declines_without_averages_of_the_newest_step() -> None:
    history, _ = run(5, 0.15)
    averages, history.averages = history.averages, None
    with pytest.raises(Declined, match="needs running averages, this history keeps none"):
        predictor("ema-posthoc").predict(history, 5)
    history.push(300, [torch.zeros(20, 10)])
    history.averages = averages
    with pytest.raises(Declined, match="needs running averages up to step 300, these end at step 250"):
        predictor("ema-posthoc").predict(history, 5)
    history.averages = PowerAverages()
    with pytest.raises(Declined, match="needs running averages up to step 300, these are empty"):
        predictor("ema-posthoc").predict(history, 5)


def test_a_width_that_no_power_average_has_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"width 0\.5 is no width of a power average: use one above 0 and below 0\.289"
    ):
        predictor("ema-posthoc", width=0.5)
