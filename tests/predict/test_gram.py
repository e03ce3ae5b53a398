"""Gram matrices of differences: equal to the slow reference, read once, shared; combinations of snapshots."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from leapverify.core import weights
from leapverify.errors import Declined
from leapverify.predict import Needs, predictor
from leapverify.predict.gram import combine_each, eigen, grams
from leapverify.predict.predictor import Request, require_request
from leapverify.trajectory.history import History

SHAPES = [(17, 9), (), (0, 4), (300,), (5, 3, 2)]
STEPS = (10, 20, 30, 40, 50, 60)


def walk(dtype: torch.dtype = torch.float32, steps: tuple[int, ...] = STEPS) -> History:
    generator = torch.Generator().manual_seed(4)
    point = [torch.randn(shape, generator=generator) for shape in SHAPES]
    history = History(point, len(steps), dtype=dtype)
    for step in steps:
        history.push(step, point)
        point = [each + 0.01 * torch.randn(each.shape, generator=generator) for each in point]
    return history


def request_of(history: History, upto: int = 16) -> Request:
    return require_request(Needs(2, upto=upto), history, 1, None)


def slow(history: History) -> np.ndarray:
    """G of each tensor from whole float64 copies."""
    found = []
    for tensors in zip(*(each.tensors for each in history), strict=True):
        rows = torch.stack([each.double().flatten() for each in tensors])
        d = rows[1:] - rows[:-1]
        found.append((d @ d.T).numpy())
    return np.stack(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("block", [1, 40, 1 << 18])
def test_equals_the_slow_float64_form(dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "CPU_BLOCK", block)
    history = walk(dtype)
    np.testing.assert_allclose(grams(request_of(history)), slow(history), rtol=1e-13, atol=1e-18)


def test_a_shorter_window_is_the_corner_of_a_longer_one() -> None:
    history = walk()
    short, long = grams(request_of(history, 4)), grams(request_of(history))
    assert (short.shape[-1], long.shape[-1]) == (3, 5)
    np.testing.assert_allclose(short, long[:, -3:, -3:], rtol=1e-14)


def test_small_differences_of_large_weights_are_not_lost() -> None:
    history = History([torch.zeros(3)], 3)
    for step in range(3):
        history.push(step, [torch.full((3,), 1000.0) + step * 2.0**-14])
    assert np.array_equal(grams(request_of(history))[0], np.full((2, 2), 3 * 2.0**-28))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_declined(bad: float) -> None:
    history = walk()
    history[1].tensors[3][7] = bad
    with pytest.raises(Declined, match="the snapshots of steps 10 to 60 are not finite, nothing can be solved for"):
        grams(request_of(history))


def test_eigenvalues_that_are_rounding_are_left_out() -> None:
    values, vectors = eigen(np.diag([1e-15, 2.0, 0.0, 5.0]))
    assert values.tolist() == [5.0, 2.0]
    np.testing.assert_allclose(np.abs(vectors), [[0, 0], [0, 1], [0, 0], [1, 0]])
    assert eigen(np.zeros((3, 3)))[0].size == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_tensor_is_combined_by_its_own_factors(dtype: torch.dtype) -> None:
    history = walk(dtype)
    points = [each.tensors for each in history]
    factors = np.random.default_rng(0).normal(size=(len(SHAPES), len(points) - 1)) * 3
    factors[0, 2] = 0.0
    out = [torch.full(shape, math.nan) for shape in SHAPES]
    combine_each(out, points, factors.tolist())
    for target, row, first, *others in zip(out, factors, *points, strict=True):
        wanted = first.double() + sum(c * (p.double() - first.double()) for c, p in zip(row, others, strict=True))
        torch.testing.assert_close(target.double(), wanted, rtol=2e-7, atol=2e-7)


def test_no_factors_copy_to_the_bit() -> None:
    history = walk()
    out = [torch.full(shape, math.nan) for shape in SHAPES]
    combine_each(out, [each.tensors for each in history], [[0.0] * 5] * len(SHAPES))
    assert all(torch.equal(a, b) for a, b in zip(out, history[0].tensors, strict=True))


class Reads(TorchDispatchMode):
    """Counts the elements read from each snapshot, and notes the largest tensor made."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self.owner = {t.untyped_storage()._cdata: each.step for each in history for t in each.tensors}
        self.read = dict.fromkeys(history.steps, 0)
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        inputs, outputs = ({t for t in tree_flatten(x)[0] if isinstance(t, Tensor)} for x in ((args, kwargs), found))
        storages = {each.untyped_storage()._cdata for each in inputs}
        made = [each for each in outputs if each.untyped_storage()._cdata not in storages]
        self.largest = max([self.largest, *(each.numel() for each in made)])
        for each in inputs if not func.is_view else ():
            step = self.owner.get(each.untyped_storage()._cdata)
            if step is not None:
                self.read[step] += each.numel()
        return found


@pytest.mark.parametrize("name", ["rre", "dmd-2", "rank1"])
def test_every_snapshot_is_read_at_most_twice_and_only_blocks_are_made(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The point that differences are taken to stays in the cache while a block's other points pass by."""
    monkeypatch.setattr(weights, "CPU_BLOCK", 32)
    history = walk()
    elements = sum(each.numel() for each in history[-1].tensors)
    out = [torch.empty(shape) for shape in SHAPES]
    centre = history.steps[0 if name == "rank1" else -1]
    with Reads(history) as reads:
        predictor(name).predict(history, 30, out=out)
        assert all(count <= 2 * elements for step, count in reads.read.items() if step != centre)
        predictor(name).predict(history, 70, out=out)
    assert all(count <= 3 * elements for step, count in reads.read.items() if step != centre)
    assert reads.largest <= len(SHAPES) * 5 * 5  # all matrices, fetched at once


def test_predictors_of_one_window_share_one_matrix() -> None:
    history = walk()
    with Reads(history) as reads:
        for name in ("rre", "dmd-2", "rank1"):
            predictor(name).prepare(history, [torch.empty(shape) for shape in SHAPES])  # type: ignore[attr-defined]
    elements = sum(each.numel() for each in history[-1].tensors)
    assert set(reads.read.values()) == {elements}
