"""Running power averages: the profiles they claim, least squares over them, buffers, and going on from a file."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leapverify.trajectory.averages import EXPONENTS, WIDEST, WIDTHS, PowerAverages, Profile, exponent, mixture, overlap


def discrete(profile: Profile, upto: int) -> np.ndarray:
    """The weight of each of `upto` states in a power average: the profile's integral over one state."""
    i = np.arange(1, upto + 1, dtype=np.float64)
    power = profile.gamma + 1
    weights = (i**power - (i - 1) ** power) / profile.states**power
    return np.where(i <= profile.states, weights, 0.0)


def states(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return list(torch.randn(count, 5, 4, generator=generator).cumsum(0))


def fed(count: int, kept: int = 8) -> tuple[PowerAverages, list[Tensor]]:
    averages, seen = PowerAverages(kept), states(count)
    for number, state in enumerate(seen, 1):
        averages.push(10 * number, [state, state[:0], state[0, 0]])
    return averages, seen


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.15, 0.2, 0.28, WIDEST])
def test_the_exponent_of_a_width(width: float) -> None:
    gamma = exponent(width)
    tau = (np.arange(200000) + 0.5) / 200000
    p = (gamma + 1) * tau**gamma / 200000
    mean = (p * tau).sum()
    assert math.sqrt((p * (tau - mean) ** 2).sum()) == pytest.approx(width, rel=1e-4)


def test_the_published_exponents() -> None:
    assert WIDTHS == (0.05, 0.10)
    assert pytest.approx((16.97, 6.94), abs=0.005) == EXPONENTS
    assert exponent(WIDEST) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.3, math.nan])
def test_other_widths_are_refused(width: float) -> None:
    with pytest.raises(ValueError, match=f"width {width} is no width of a power average: use one above 0 and below"):
        exponent(width)


@settings(max_examples=60)
@given(n=st.integers(1, 50), later=st.integers(1, 50), a=st.floats(0.0, 30.0), b=st.floats(0.0, 30.0))
def test_the_overlap_is_the_integral_of_the_product(n: int, later: int, a: float, b: float) -> None:
    one, two = Profile(n, a), Profile(later, b)
    points, weights = np.polynomial.legendre.leggauss(40)
    end = min(n, later)
    tau = (points + 1) / 2 * end
    product = (a + 1) * (b + 1) * tau ** (a + b) / float(n) ** (a + 1) / float(later) ** (b + 1)
    assert overlap(one, two) == pytest.approx(float((weights * product).sum()) * end / 2, rel=1e-4)
    assert overlap(one, two) == overlap(two, one)


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_every_copy_is_the_average_that_its_profile_says(count: int) -> None:
    averages, seen = fed(count)
    assert (averages.step, averages.count) == (10 * count, count)
    flat = torch.stack(seen).double().flatten(1)
    for each in averages.states:
        expected = torch.from_numpy(discrete(each.profile, count)) @ flat
        torch.testing.assert_close(each.tensors[0].flatten().double(), expected, rtol=1e-5, atol=1e-5)
        assert [one.shape for one in each.tensors] == [(5, 4), (0, 4), ()]
    newest = [each.profile for each in averages.states if each.profile.states == count]
    assert newest == [Profile(count, gamma) for gamma in EXPONENTS]


@settings(max_examples=80)
@given(
    counts=st.lists(st.integers(1, 300), min_size=1, max_size=6, unique=True),
    width=st.floats(0.02, 0.28),
)
def test_a_mixture_has_sum_one_and_is_never_worse_than_the_nearest_single_one(counts: list[int], width: float) -> None:
    kept = [Profile(n, gamma) for n in sorted(counts) for gamma in EXPONENTS]
    wanted = Profile(max(counts), exponent(width))
    x, left = mixture(kept, wanted)
    square = overlap(wanted, wanted)
    singles = [overlap(each, each) - 2 * overlap(each, wanted) + square for each in kept]
    assert math.fsum(x) == pytest.approx(1.0, abs=1e-9)
    assert left <= math.sqrt(min(singles) / square) + 1e-6


def test_a_kept_average_comes_out_as_itself_alone() -> None:
    kept = [Profile(n, gamma) for n in (1, 20, 60, 100) for gamma in EXPONENTS]
    for place, each in enumerate(kept):
        x, left = mixture(kept, each)
        assert x == [float(i == place) for i in range(len(kept))]
        assert left == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("width", "allowed"), [(0.03, 0.20), (0.07, 0.035), (0.15, 0.09), (0.20, 0.18)])
def test_how_near_other_widths_come(width: float, allowed: float) -> None:
    """The figures of the docstrings: 8 copies, at any number of states from 20 on."""
    averages = PowerAverages()
    for number in range(1, 401):
        averages.push(number, [torch.zeros(1)])
        if number >= 20 and number % 7 == 0:
            _, left = mixture([each.profile for each in averages.states], Profile(number, exponent(width)))
            assert left <= allowed


def test_narrow_states_are_averaged_in_float32() -> None:
    narrow, wide = PowerAverages(), PowerAverages()
    for number, state in enumerate(states(9), 1):
        narrow.push(number, [state.bfloat16()])
        wide.push(number, [state.bfloat16().float()])
    for one, other in zip(narrow.states, wide.states, strict=True):
        assert one.tensors[0].dtype == torch.float32
        assert torch.equal(one.tensors[0], other.tensors[0])


def test_buffers_are_used_again_after_a_reset_and_nothing_of_before_is_left() -> None:
    averages, seen = fed(30)
    places = {each.data_ptr() for one in averages.states for each in one.tensors if each.numel()}
    assert averages.holds(averages.states[0].tensors[0])
    averages.reset()
    assert (averages.step, averages.count, averages.states) == (None, 0, [])
    averages.push(1, [torch.full((5, 4), math.inf), torch.zeros(0, 4), torch.zeros(())])
    averages.reset()
    for number, state in enumerate(seen, 1):
        averages.push(10 * number, [state, state[:0], state[0, 0]])
    assert {each.data_ptr() for one in averages.states for each in one.tensors if each.numel()} == places
    for one, other in zip(averages.states, fed(30)[0].states, strict=True):
        assert torch.equal(one.tensors[0], other.tensors[0])
    assert not averages.holds(seen[0])


@pytest.mark.parametrize("count", [0, 3, 25])
def test_going_on_from_a_saved_state_is_going_on(count: int) -> None:
    averages, _ = fed(count)
    saved = {key: value.clone() for key, value in averages.state_dict().items()}
    other = PowerAverages()
    other.push(1, [torch.ones(5, 4), torch.ones(0, 4), torch.ones(())])
    other.load_state_dict(saved)
    extra = torch.ones(5, 4)
    for each in (averages, other):
        each.push(1000, [extra, extra[:0], extra[0, 0]])
    assert other.count == count + 1
    for one, two in zip(averages.states, other.states, strict=True):
        assert one.profile == two.profile
        assert all(torch.equal(a, b) for a, b in zip(one.tensors, two.tensors, strict=True))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="keep at least 3"):
        PowerAverages(2)
    averages, _ = fed(3)
    with pytest.raises(ValueError, match=r"step 30 does not follow step 30: push increasing steps, or reset\(\)"):
        averages.push(30, [torch.zeros(5, 4)])
