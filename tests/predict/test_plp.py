"""plp: the slope of three consecutive steps, and what it says where they are not there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from leapverify.errors import Declined
from leapverify.predict import predictor
from leapverify.trajectory.history import History


def history_with(states: list[Tensor], steps: list[int], newest: int) -> History:
    history = History([states[-1]], 2)
    history.recent = History([states[-1]], 3)
    for step, state in zip(steps, states, strict=True):
        history.recent.push(step, [state])
    history.push(newest, [states[-1]])
    return history


def test_plp_goes_on_along_the_least_squares_slope_of_the_three_states() -> None:
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(6, 4, generator=generator) for _ in range(3)]
    design = torch.tensor([[1.0, -2.0], [1.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    slope = torch.linalg.lstsq(design, torch.stack(states).double().flatten(1)).solution[1].view(6, 4)
    for horizon in (1, 7, 100):
        got = predictor("plp").predict(history_with(states, [8, 9, 10], 10), horizon)[0].double()
        torch.testing.assert_close(got, states[-1].double() + horizon * slope, rtol=1e-6, atol=1e-6 * horizon)


def test_plp_is_exact_on_a_line() -> None:
    start, slope = torch.arange(8.0), torch.arange(-4.0, 4.0)
    states = [start + number * slope for number in (98, 99, 100)]
    assert torch.equal(predictor("plp").predict(history_with(states, [98, 99, 100], 100), 50)[0], start + 150 * slope)


def test_plp_declines_without_consecutive_steps() -> None:
    states = [torch.zeros(2)] * 3
    bare = History(states[:1], 1)
    bare.push(10, states[:1])
    with pytest.raises(Declined, match="needs the weights after the last 3 steps one by one, the history holds 0"):
        predictor("plp").predict(bare, 5)
    with pytest.raises(Declined, match="needs the weights after steps 8 to 10 one by one, these are of"):
        predictor("plp").predict(history_with(states, [6, 8, 10], 10), 5)
