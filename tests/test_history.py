"""history: a ring that keeps true steps, allocates once, and branches without copies."""

from __future__ import annotations

import pytest
import torch

from leapverify.history import History


def point(value: float) -> list[torch.Tensor]:
    return [torch.full((3, 2), value), torch.tensor(value), torch.empty(0)]


def filled(length: int, *steps: int) -> History:
    history = History(point(0), length)
    for step in steps:
        history.push(step, point(step))
    return history


def test_the_ring_keeps_the_newest_with_their_true_steps() -> None:
    history = filled(3, 2, 5, 11, 12)
    assert history.steps == (5, 11, 12)
    assert [snapshot.step for snapshot in history] == [5, 11, 12]
    assert [float(snapshot.tensors[0][1, 1]) for snapshot in history] == [5, 11, 12]
    assert history[-1].step == 12
    assert len(history) == 3


def test_push_copies_and_buffers_are_allocated_once() -> None:
    weights = point(1)
    history = History(weights, 2)
    history.push(1, weights)
    weights[0].fill_(9)
    assert float(history[-1].tensors[0][0, 0]) == 1
    history.push(2, weights)
    places = {snapshot.tensors[0].data_ptr() for snapshot in history}
    allocated = history.nbytes
    assert allocated == 2 * 7 * 4
    for step in range(3, 9):
        history.push(step, weights)
        assert {snapshot.tensors[0].data_ptr() for snapshot in history} == places
    history.reset()
    assert len(history) == 0
    history.push(1, weights)
    history.push(4, weights)
    assert history.nbytes == allocated
    assert {snapshot.tensors[0].data_ptr() for snapshot in history} == places


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_storage_rounds_once(dtype: torch.dtype) -> None:
    weights = [torch.randn(50, generator=torch.Generator().manual_seed(1))]
    history = History(weights, 1, dtype=dtype)
    history.push(0, weights)
    assert torch.equal(history[-1].tensors[0], weights[0].to(dtype))
    assert history.nbytes == 100


def test_derived_values_live_until_the_next_push() -> None:
    history = filled(2, 1)
    calls = []
    for _ in range(3):
        assert history.derived("a", lambda: calls.append(1) or len(calls)) == 1
    history.push(2, point(0))
    assert history.derived("a", lambda: calls.append(1) or len(calls)) == 2
    history.reset()
    assert history.derived("a", lambda: calls.append(1) or len(calls)) == 3


def test_a_branch_goes_on_without_touching_its_parent() -> None:
    history = filled(3, 1, 2, 3)
    before = [(s.step, s.tensors[0].data_ptr(), s.tensors[0].clone()) for s in history]
    with history.branch() as chain:
        assert chain.steps == (1, 2, 3)
        assert chain[-1].tensors[0] is history[-1].tensors[0]
        for step in range(4, 12):
            chain.push(step, point(step))
        assert chain.steps == (9, 10, 11)
        assert chain.holds(chain[-1].tensors[0])
    after = [(s.step, s.tensors[0].data_ptr(), s.tensors[0]) for s in history]
    for old, new in zip(before, after, strict=True):
        assert old[:2] == new[:2]
        assert torch.equal(old[2], new[2])


def test_branches_use_each_others_buffers_again() -> None:
    history = filled(3, 1, 2, 3)
    for _ in range(4):
        with history.branch(2) as chain:
            for step in (4, 5, 6, 7):
                chain.push(step, point(step))
    assert history.nbytes == 5 * 7 * 4  # three of its own, two for any number of branches
    history.push(4, point(4))
    assert history.steps == (2, 3, 4)
    assert [float(s.tensors[1]) for s in history] == [2, 3, 4]


def test_bad_input_is_named() -> None:
    history = filled(2, 5)
    for step in (5, 4):
        with pytest.raises(ValueError, match=f"step {step} does not follow step 5: push increasing steps"):
            history.push(step, point(0))
    with pytest.raises(ValueError, match="the pushed weights has 1 tensors where 3 are needed"):
        history.push(6, point(0)[:1])
    with pytest.raises(ValueError, match=r"has shape \(2,\) at position 1 where \(\) is needed"):
        history.push(6, [torch.zeros(3, 2), torch.zeros(2), torch.empty(0)])
    with pytest.raises(ValueError, match="history length 0 is too short"):
        History(point(0), 0)
    with pytest.raises(ValueError, match="history of no tensors"):
        History([], 1)
    with pytest.raises(ValueError, match=r"torch.float64 is not kept: use float32"):
        History(point(0), 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="branch length 0 is too short"):
        history.branch(0)
    with pytest.raises(IndexError):
        history[1]
