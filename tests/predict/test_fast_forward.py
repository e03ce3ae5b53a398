"""`fast-forward`: exact where the loss is quadratic along the last step, for no more losses than it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from context_fakes import Bowl
from leapverify.errors import Declined
from leapverify.predict import predictor
from leapverify.predict.fast_forward import Jump, fast_forward, jump, search, vertex
from leapverify.predict.predictor import require_request
from leapverify.trajectory.history import History

BEFORE = [torch.tensor([0.0, 1.0]), torch.tensor(3.0)]
NOW = [torch.tensor([1.0, 1.5]), torch.tensor(2.0)]
STEP = [now - before for now, before in zip(NOW, BEFORE, strict=True)]


def history_of(selection: object, now: Sequence[Tensor] = NOW, before: Sequence[Tensor] = BEFORE) -> History:
    history = History(now, 2)
    history.recent = History(now, 2)
    history.recent.push(99, before)
    history.recent.push(100, now)
    history.push(100, now)
    history.selection = selection  # type: ignore[assignment]
    return history


def along(tau: float) -> list[Tensor]:
    return [now + tau * step for now, step in zip(NOW, STEP, strict=True)]


@pytest.mark.parametrize("tau", [0.8, 1.0, 1.7, 5.3, 60.0, 170.0])
def test_finds_the_minimum_of_a_quadratic_loss_along_the_step(tau: float) -> None:
    bowl = Bowl(along(tau))
    history = history_of(bowl)
    predicted = predictor("fast-forward").predict(history, 10)
    for got, wanted in zip(predicted, along(tau), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    found = jump(require_request(fast_forward().needs, history, 1, None))
    assert found.tau == pytest.approx(tau, rel=1e-4)
    assert found.losses == len(bowl.asked) <= 11


@pytest.mark.parametrize("tau", [0.0, -3.0, 0.4])
def test_stays_where_the_first_repeat_raises_the_loss(tau: float) -> None:
    """At 0.4 the first repeat lands beyond the minimum, higher than before it."""
    history = history_of(Bowl(along(tau)))
    assert all(torch.equal(a, b) for a, b in zip(fast_forward().predict(history, 1), NOW, strict=True))
    assert jump(require_request(fast_forward().needs, history, 1, None)) == Jump(0.0, 2)


@pytest.mark.parametrize(("limit", "losses"), [(1, 2), (2, 3), (100, 9), (256, 10)])
def test_goes_no_further_than_the_limit(limit: int, losses: int) -> None:
    assert search(lambda tau: -tau, limit) == Jump(float(limit), losses)


def slow(loss: Callable[[float], float], limit: int) -> float:
    """As the source has it: tau goes up by 1 while the loss falls."""
    tau = 0
    while tau < limit and loss(tau + 1) < loss(tau):
        tau += 1
    return loss(tau)


@pytest.mark.parametrize("minimum", [0.7, 3.0, 11.5, 90.0])
def test_is_never_above_what_single_repeats_reach_on_a_parabola(minimum: float) -> None:
    def loss(tau: float) -> float:
        return 1e-3 * (tau - minimum) ** 2 + 3.0

    assert loss(search(loss, 256).tau) <= slow(loss, 256) + 1e-12


def test_a_loss_that_is_not_finite_ends_the_search() -> None:
    assert search(lambda tau: math.inf if tau > 5 else -tau, 256) == Jump(4.0, 5)
    assert vertex([(2.0, 1.0), (4.0, 0.5), (8.0, math.inf)]) is None
    assert vertex([(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)]) is None


def test_declines_where_the_present_loss_is_not_finite() -> None:
    history = history_of(Bowl([torch.full_like(each, math.nan) for each in NOW]))
    with pytest.raises(Declined, match="the held-out loss of the present weights is not finite"):
        fast_forward().predict(history, 1)


def test_a_step_of_nothing_stays_at_rest() -> None:
    history = history_of(Bowl(along(3.0)), NOW, NOW)
    assert all(torch.equal(a, b) for a, b in zip(fast_forward().predict(history, 1), NOW, strict=True))


def test_declines_without_the_step_before() -> None:
    history = history_of(Bowl(NOW))
    assert history.recent is not None
    history.recent.reset()
    with pytest.raises(Declined, match="needs the weights after the last 2 steps one by one, the history holds 0"):
        fast_forward().predict(history, 1)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="limit 0 repeats no step: use at least 1, or hold"):
        predictor("fast-forward", limit=0)
