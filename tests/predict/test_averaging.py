"""Averages of snapshots: equal to their formulas in float64, at rest in rest, exact where theory says so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leapverify.errors import Declined
from leapverify.predict import predictor
from leapverify.predict.averaging import anneal, drift, ema_extrapolate, lawa, lookahead, outer_nesterov
from leapverify.predict.combination import Combination, chained, combination, combine, of_displacements
from leapverify.predict.decay_shapes import SHAPES
from leapverify.predict.polynomial import linear_fit
from leapverify.trajectory.history import History

EVEN = tuple(range(50, 450, 50))
UNEVEN = (3, 50, 61, 100, 180, 200, 290, 300)
SPACINGS = pytest.mark.parametrize("steps", [EVEN, UNEVEN], ids=["even", "uneven"])
HORIZONS = (1, 25, 50, 333)
AVERAGES = ("lawa-5", "anneal-linear", "anneal-cosine", "anneal-sqrt", "lookahead", "outer-nesterov")


def pushed(states: Sequence[Tensor], steps: Sequence[int]) -> History:
    history = History([states[0]], len(states))
    for step, state in zip(steps, states, strict=True):
        history.push(step, [state])
    return history


def walk(count: int, seed: int = 0) -> list[Tensor]:
    """States that float32 holds exactly, of weights that move a little."""
    generator = torch.Generator().manual_seed(seed)
    states = [torch.randn(6, 50, generator=generator)]
    while len(states) < count:
        states.append(states[-1] + 0.01 * torch.randn(6, 50, generator=generator))
    return [each.double() for each in states]


def line(steps: Sequence[float], seed: int = 3) -> tuple[Callable[[float], Tensor], float]:
    """A straight line through weight space, and what rounding its states to float32 can change of any of them."""
    generator = torch.Generator().manual_seed(seed)
    start, slope = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    at = lambda step: start + step / 100 * slope  # noqa: E731
    return at, 2.0**-24 * max(float(at(step).abs().max()) for step in steps)


def size_of(method: Combination, steps: Sequence[int], horizon: int) -> float:
    """Sum of the sizes of all weights of a combination."""
    lags = [steps[-1] - step for step in reversed(steps)]
    older = method.coefficients(lags, horizon)
    return abs(1 - math.fsum(older)) + sum(map(abs, older))


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_lawa_is_the_mean(n: int) -> None:
    states = walk(8)
    expected = torch.stack(states[-n:]).mean(0)
    got = lawa(n).predict(pushed(states, UNEVEN), 7)[0].double()
    torch.testing.assert_close(got, expected, rtol=3 * 2.0**-24, atol=2.0**-24)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", [3, 4, 8])
@SPACINGS
def test_anneal_is_the_decayed_run_with_the_same_gradients(shape: str, window: int, steps: tuple[int, ...]) -> None:
    """SGD step by step: at a constant rate for the history, and again from the oldest state with the decay's rates."""
    generator = torch.Generator().manual_seed(window)
    steps = steps[-window:]
    weights = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    decayed, states = weights.clone(), [weights.clone()]
    span = steps[-1] - steps[0]
    for before, after in itertools.pairwise(steps):
        rate = SHAPES[shape]((after - steps[0]) / (span + span / (window - 1)))
        for _ in range(after - before):
            gradient = torch.randn(4, 9, generator=generator, dtype=torch.float64)
            weights = weights - 1e-3 * gradient
            decayed = decayed - 1e-3 * rate * gradient
        states.append(weights)
    got = anneal(shape, window).predict(pushed(states, steps), 10)[0].double()
    torch.testing.assert_close(got, decayed, rtol=0, atol=2.0**-22)


def test_anneal_linear_over_even_steps_is_lawa() -> None:
    history = pushed(walk(8), EVEN)
    wanted = lawa(8).predict(history, 5)[0]
    torch.testing.assert_close(anneal("linear").predict(history, 5)[0], wanted, rtol=2.0**-22, atol=2.0**-24)


def test_anneal_predicts_from_fewer_snapshots_and_never_from_more() -> None:
    states = walk(8)
    few, window = pushed(states[-3:], EVEN[-3:]), pushed(states[-4:], EVEN[-4:])
    assert torch.equal(anneal("sqrt").predict(few, 9)[0], anneal("sqrt", 3).predict(pushed(states, EVEN), 9)[0])
    assert torch.equal(anneal("sqrt", 4).predict(pushed(states, EVEN), 9)[0], anneal("sqrt").predict(window, 9)[0])
    with pytest.raises(Declined, match="needs 3 snapshots, the history holds 2"):
        anneal("sqrt").predict(pushed(states[-2:], EVEN[-2:]), 9)


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_do_not_depend_on_the_horizon_and_say_so(name: str) -> None:
    history = pushed(walk(8), UNEVEN)
    assert not predictor(name).needs.horizon
    assert torch.equal(predictor(name).predict(history, 1)[0], predictor(name).predict(history, 1000)[0])


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("horizon", HORIZONS)
@SPACINGS
def test_ema_extrapolate_on_a_line(beta: float, horizon: int, steps: tuple[int, ...]) -> None:
    """theta(t - mean lag + beta K): beta K steps on from the centre of the mean, not from theta_t."""
    at, rounding = line([*steps, steps[-1] + 2 * horizon])
    method = ema_extrapolate(beta=beta)
    centre = sum(steps[-5:]) / 5
    got = method.predict(pushed([at(step) for step in steps], steps), horizon)[0].double()
    allowed = 3 * (1 + size_of(method, steps, horizon)) * rounding
    assert float((got - at(centre + beta * horizon)).abs().max()) <= allowed


@SPACINGS
def test_ema_extrapolate_is_its_formula_step_by_step(steps: tuple[int, ...]) -> None:
    """The drift as a real moving average over single steps, each interval's displacement shared equally among them."""
    states, horizon = walk(8), 40
    span = steps[-1] - steps[0]
    velocity, whole = torch.zeros_like(states[0]), 0.0
    for index in range(1, len(steps)):
        per_step = (states[index] - states[index - 1]) / (steps[index] - steps[index - 1])
        for step in range(steps[index - 1], steps[index]):
            weight = math.exp(-(steps[-1] - step) / span)
            velocity, whole = velocity + weight * per_step, whole + weight
    expected = torch.stack(states[-5:]).mean(0) + horizon * velocity / whole
    got = ema_extrapolate().predict(pushed(states, steps), horizon)[0].double()
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=60)
@given(gaps=st.lists(st.integers(1, 90), min_size=1, max_size=9))
def test_the_drift_weighs_steps_and_sums_to_one(gaps: list[int]) -> None:
    lags = [sum(gaps[:n]) for n in range(len(gaps) + 1)]
    shares = [weight * gap for weight, gap in zip(drift(lags), gaps, strict=True)]
    assert min(shares) > 0
    assert math.fsum(shares) == pytest.approx(1.0, abs=1e-12)
    per_step = drift(lags)
    assert per_step == sorted(per_step, reverse=True)


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("count", [3, 5, 8])
@SPACINGS
def test_linear_fit_is_exact_on_a_line(horizon: int, count: int, steps: tuple[int, ...]) -> None:
    steps = steps[-count:]
    at, rounding = line([*steps, steps[-1] + horizon])
    got = linear_fit().predict(pushed([at(step) for step in steps], steps), horizon)[0].double()
    allowed = 3 * (1 + size_of(linear_fit(), steps, horizon)) * rounding
    assert float((got - at(steps[-1] + horizon)).abs().max()) <= allowed


@SPACINGS
def test_linear_fit_is_the_least_squares_line_of_each_element(steps: tuple[int, ...]) -> None:
    states, horizon = walk(8), 70
    design = torch.stack([torch.ones(8), torch.tensor(steps)], 1).double()
    design[:, 1] -= steps[-1]
    fitted = torch.linalg.lstsq(design, torch.stack(states).flatten(1)).solution
    expected = (fitted[0] + horizon * fitted[1]).view_as(states[0])
    got = linear_fit().predict(pushed(states, steps), horizon)[0].double()
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_linear_fit_copies_norms_and_biases() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(), (7,), (3, 4), (0,), (2, 3, 4)]
    history = History([torch.zeros(shape) for shape in shapes], 4)
    for step in range(4):
        history.push(step, [torch.randn(shape, generator=generator) for shape in shapes])
    found = linear_fit().predict(history, 10)
    moved = [not torch.equal(got, now) for got, now in zip(found, history[-1].tensors, strict=True)]
    assert moved == [False, False, True, False, True]


@pytest.mark.parametrize("name", [*AVERAGES, "ema-extrapolate", "linear-fit"])
def test_weights_at_rest_rest_to_the_bit(name: str) -> None:
    weights = torch.randn(40, 50, generator=torch.Generator().manual_seed(1)) * 1000
    history = pushed([weights] * 8, UNEVEN)
    assert torch.equal(predictor(name).predict(history, 100)[0], weights)


@settings(max_examples=80)
@given(a=st.lists(st.floats(-0.95, 4.0), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_both_kernels_are_the_sum_in_float64(a: list[float], seed: int) -> None:
    """Any displacements' factors above -1: the partial sums of the weights are then positive."""
    factors = of_displacements(a)
    generator = torch.Generator().manual_seed(seed)
    points = [torch.randn(9, generator=generator) for _ in range(len(a) + 1)]
    steps = [now.double() - before.double() for now, before in itertools.pairwise(points)]
    expected = points[0].double() + sum(factor * step for factor, step in zip(a, steps, strict=True))
    sums = [1 + each for each in (*a, 0.0)]
    rise = max(1.0, *(after / before for before, after in itertools.pairwise(sums)))
    size = (max(sums) + rise) * len(a) * max(float(each.abs().max()) for each in points)
    for kernel in (combination, chained):
        out = [torch.zeros(9)]
        combine(out, [[each] for each in points], kernel(factors))
        assert float((out[0].double() - expected).abs().max()) <= 6 * 2.0**-24 * size


def test_chained_refuses_what_is_no_running_average() -> None:
    with pytest.raises(AssertionError, match="no running average"):
        chained((-3.0, 1.0))  # the parabola at s = 1: 3, -3, 1


REFUSED: list[tuple[Callable[[], Combination], str]] = [
    (lambda: lawa(1), "lawa-1 averages nothing: average at least 2 snapshots, or hold"),
    (lambda: anneal("linear", 2), "a window of 2 snapshots is no decay: use at least 3"),
    (lambda: anneal("exp"), "decay shape 'exp' is unknown: use one of linear, cosine, sqrt"),
    (lambda: ema_extrapolate(9), "a mean of 9 snapshots in a window of 8: use 2 <= n <= window"),
    (lambda: ema_extrapolate(beta=-1.0), "beta = -1.0 walks back: use beta >= 0"),
    (lambda: linear_fit(2), "a line fits 2 snapshots exactly: fit at least 3, or use linear"),
    (lambda: lookahead(0.0), "alpha = 0.0 is no step towards the fast weights: use 0 < alpha <= 1"),
    (lambda: outer_nesterov(mu=1.0), "lr = 0.7, mu = 1.0 is no outer step: use lr > 0 and 0 <= mu < 1"),
    (lambda: outer_nesterov(window=1), "a window of 1 snapshots has no interval: use at least 2"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_bad_options(make: Callable[[], Combination], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("'", ".").replace("(", r"\(")):
        make()
