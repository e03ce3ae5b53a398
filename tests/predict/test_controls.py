"""Controls: hold is the identity; random goes as far as linear, in a direction that its arguments alone decide."""

from __future__ import annotations

import math

import pytest
import torch

from leapverify.predict import predictor
from leapverify.trajectory.history import History


def history_of(steps: tuple[int, ...] = (10, 30)) -> History:
    generator = torch.Generator().manual_seed(1)
    point = [torch.randn(500, 30, generator=generator), torch.randn(77, generator=generator), torch.tensor(1.0)]
    history = History(point, len(steps))
    for step in steps:
        history.push(step, point)
        point = [each + 0.1 * torch.randn(each.shape, generator=generator) for each in point]
    return history


@pytest.mark.parametrize("horizon", [1, 17, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_hold_is_theta_t_to_the_bit(horizon: int, dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, -0.0, 1e-7, 3.14, -2e4])
    history = History([values], 1, dtype=dtype)
    history.push(3, [values])
    out = [torch.zeros(5, dtype=dtype)]
    predictor("hold").predict(history, horizon, out=out)
    assert torch.equal(out[0].view(torch.uint8), history[-1].tensors[0].view(torch.uint8))


@pytest.mark.parametrize("horizon", [1, 20, 90])
def test_random_has_the_norm_of_linears_step_per_tensor(horizon: int) -> None:
    history = history_of()
    line, wild = (predictor(name).predict(history, horizon) for name in ("linear", "random"))
    for now, a, b in zip(history[-1].tensors, line, wild, strict=True):
        wanted = float((a.double() - now.double()).norm())
        assert float((b.double() - now.double()).norm()) == pytest.approx(wanted, rel=1e-5)


def test_random_depends_on_seed_step_and_horizon_alone() -> None:
    history = history_of()
    base = predictor("random", seed=4).predict(history, 20)
    torch.manual_seed(99)
    again = predictor("random", seed=4).predict(history_of(), 20)
    assert all(torch.equal(a, b) for a, b in zip(base, again, strict=True))
    now = history[-1].tensors[0]
    others = [predictor("random", seed=5).predict(history, 20), predictor("random", seed=4).predict(history, 21)]
    others.append(predictor("random", seed=4).predict(history_of((11, 31)), 20))
    signs = (base[0] - now).sign()
    for other in others:
        agreement = float((signs == (other[0] - now).sign()).double().mean())
        assert abs(agreement - 0.5) < 5 * 0.5 / math.sqrt(now.numel())


def test_random_signs_are_fair_and_neighbours_independent() -> None:
    history = History([torch.zeros(64 * 4001 + 13)], 2)
    history.push(0, [torch.zeros(64 * 4001 + 13)])
    history.push(1, [torch.ones(64 * 4001 + 13)])
    signs = (predictor("random").predict(history, 1)[0] - 1).double()
    bound = 5 / math.sqrt(signs.numel())
    assert torch.equal(signs.abs(), torch.ones_like(signs))
    assert abs(float(signs.mean())) < bound
    for shift in (1, 2, 31, 32, 64, 4001, 8002, 8003, 8004):
        assert abs(float((signs[shift:] * signs[:-shift]).mean())) < bound
