"""Straightness and loss curvature against what geometry says they are."""

from __future__ import annotations

import math

import pytest
import torch

from leapverify.observe.signals import loss_curvature, straightness


def weights(seed: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in ((3, 4), (5,), (2, 2, 2), ())]


def moved(start, step, scale):
    return [a + scale * b for a, b in zip(start, step, strict=True)]


def test_a_straight_path_scores_one_whatever_the_steps_length():
    start, step = weights(0, torch.float64), weights(1, torch.float64)
    assert straightness(moved(start, step, 4.0), moved(start, step, 1.0), start) == pytest.approx(1.0, abs=1e-12)


def test_turning_back_scores_minus_one():
    start, step = weights(0, torch.float64), weights(1, torch.float64)
    assert straightness(start, moved(start, step, 1.0), start) == pytest.approx(-1.0, abs=1e-12)


def test_a_right_angle_scores_zero():
    zero = [torch.zeros(2), torch.zeros(1)]
    east = [torch.tensor([1.0, 0.0]), torch.zeros(1)]
    north_east = [torch.tensor([1.0, 0.0]), torch.tensor([5.0])]
    assert straightness(north_east, east, zero) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_equals_the_slow_reference(dtype):
    theta = [weights(seed, dtype) for seed in range(3)]
    flat = [torch.cat([tensor.double().flatten() for tensor in tensors]).tolist() for tensors in theta]
    new = [a - b for a, b in zip(flat[0], flat[1], strict=True)]
    old = [a - b for a, b in zip(flat[1], flat[2], strict=True)]
    dot = math.fsum(a * b for a, b in zip(new, old, strict=True))
    norms = math.sqrt(math.fsum(a * a for a in new)) * math.sqrt(math.fsum(a * a for a in old))
    assert straightness(*theta) == pytest.approx(dot / norms, abs=1e-14)


def test_large_tensors_go_block_by_block(monkeypatch):
    theta = [weights(seed) for seed in range(3)]
    whole = straightness(*theta)
    monkeypatch.setattr("leapverify.observe.signals._BLOCK", 5)
    assert straightness(*theta) == pytest.approx(whole, abs=1e-14)


def test_leaves_the_weights_alone():
    theta = [weights(seed, torch.float64) for seed in range(3)]
    straightness(*theta)
    for seed, tensors in enumerate(theta):
        assert all(torch.equal(a, b) for a, b in zip(tensors, weights(seed, torch.float64), strict=True))


def test_no_displacement_or_no_number_gives_nan():
    a, b = weights(0), weights(1)
    assert math.isnan(straightness(a, a, b))
    assert math.isnan(straightness(a, b, b))
    a[1][2] = math.nan
    assert math.isnan(straightness(a, b, weights(2)))


def test_bad_input():
    a = weights(0)
    with pytest.raises(ValueError, match=r"hold \(4, 3, 4\) tensors: give the same tensors three times"):
        straightness(a, a[:3], a)
    with pytest.raises(ValueError, match=r"tensor 1 has shapes \[\(5,\), \(5,\), \(3, 4\)\]"):
        straightness(a, a, [a[0], a[0], *a[2:]])


def test_loss_curvature_is_the_second_difference_of_the_last_three():
    assert loss_curvature([]) is None
    assert loss_curvature([3.0, 2.0]) is None
    assert loss_curvature([9.0, 4.0, 2.0, 1.0]) == 1.0
    assert loss_curvature([5 - 0.5 * i for i in range(4)]) == 0.0
