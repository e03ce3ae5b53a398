"""Slow weights: equal to the loops they stand for, written out in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from leapverify.predict import predictor
from leapverify.predict.averaging import lookahead, outer_nesterov
from leapverify.trajectory.history import History

STEPS = (3, 50, 61, 100, 180, 200, 290, 300)


def trajectory(count: int) -> tuple[History, list[Tensor]]:
    generator = torch.Generator().manual_seed(count)
    states = [torch.randn(5, 7, generator=generator)]
    while len(states) < count:
        states.append(states[-1] + 0.1 * torch.randn(5, 7, generator=generator))
    history = History([states[0]], len(states))
    for step, state in zip(STEPS, states, strict=False):
        history.push(step, [state])
    return history, [each.double() for each in states]


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0])
def test_lookahead_is_one_cycle_over_the_newest_interval(alpha: float) -> None:
    history, (*_, slow, fast) = trajectory(4)
    got = lookahead(alpha).predict(history, 10)[0].double()
    torch.testing.assert_close(got, slow + alpha * (fast - slow), rtol=0, atol=2.0**-22)
    assert predictor("lookahead").predict(history, 10)[0].equal(lookahead(0.5).predict(history, 1)[0])


@pytest.mark.parametrize("count", [2, 3, 5, 8])
@pytest.mark.parametrize(("lr", "mu"), [(0.7, 0.9), (1.0, 0.0), (0.3, 0.5)])
def test_outer_nesterov_is_dilocos_outer_loop(count: int, lr: float, mu: float) -> None:
    """One worker; every inner run starts where the undisturbed run was and ends where it went."""
    history, states = trajectory(count)
    b = torch.zeros_like(states[0])
    for slow, fast in itertools.pairwise(states):
        b = mu * b + (slow - fast)
        w = slow - lr * (slow - fast + mu * b)
    got = outer_nesterov(lr, mu).predict(history, 10)[0].double()
    torch.testing.assert_close(got, w, rtol=0, atol=2.0**-20)


def test_outer_nesterov_is_torchs_sgd_on_outer_gradients() -> None:
    history, states = trajectory(6)
    outer = torch.nn.Parameter(states[0].clone())
    optimizer = torch.optim.SGD([outer], lr=0.7, momentum=0.9, nesterov=True)
    for slow, fast in itertools.pairwise(states):
        outer.data.copy_(slow)
        outer.grad = slow - fast
        optimizer.step()
    got = predictor("outer-nesterov").predict(history, 10)[0].double()
    torch.testing.assert_close(got, outer.detach(), rtol=0, atol=2.0**-20)


def test_without_momentum_at_rate_one_the_outer_step_ends_at_the_fast_weights() -> None:
    history, (*_, fast) = trajectory(5)
    assert torch.equal(outer_nesterov(1.0, 0.0).predict(history, 10)[0].double(), fast)


def test_momentum_is_taken_from_the_window_alone() -> None:
    history, _ = trajectory(8)
    short = History(history[-1].tensors, 3)
    for snapshot in list(history)[-3:]:
        short.push(snapshot.step, snapshot.tensors)
    windowed = outer_nesterov(window=3).predict(history, 10)[0]
    assert torch.equal(windowed, outer_nesterov().predict(short, 10)[0])
    assert not torch.equal(windowed, outer_nesterov().predict(history, 10)[0])
