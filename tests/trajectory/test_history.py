"""history: a ring that keeps true steps, allocates once, and branches without copies."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from leapverify.trajectory.history import History


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


def test_one_device_per_tensor_is_the_same_ring() -> None:
    plain, split = filled(2, 3, 4), History(point(0), 2, device=["cpu", torch.device("cpu"), "cpu"])
    for step in (3, 4):
        split.push(step, point(step))
    for a, b in zip(plain, split, strict=True):
        assert a.step == b.step
        assert all(map(torch.equal, a.tensors, b.tensors))
    assert split.nbytes == plain.nbytes


def test_each_tensors_snapshots_lie_on_its_device_for_good() -> None:
    places = ["meta", "cpu", "meta"]
    history = History(point(0), 2, device=places)

    def found(snapshots: Sequence) -> list[list[str]]:
        return [[each.device.type for each in snapshot.tensors] for snapshot in snapshots]

    for step in range(1, 6):
        history.push(step, point(step))
        assert found(history) == [places] * len(history)
        assert history.holds(history[-1].tensors[1])
    with history.branch() as chain:
        for step in (6, 7, 8):
            chain.push(step, point(step))
        assert found(chain) == [places] * 2
        assert float(chain[-1].tensors[1]) == 8
    assert [float(snapshot.tensors[1]) for snapshot in history] == [4, 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_page_locked_snapshots_hold_the_same(dtype: torch.dtype) -> None:
    """Without CUDA the memory is ordinary, but cut out of one block all the same."""
    plain, locked = History(point(0), 2, dtype=dtype), History(point(0), 2, dtype=dtype, pinned=True)
    for step in (1, 2, 3):
        plain.push(step, point(step + 0.3))
        locked.push(step, point(step + 0.3))
    for a, b in zip(plain, locked, strict=True):
        assert all(map(torch.equal, a.tensors, b.tensors))
        assert all(each.is_contiguous() and each.dtype == dtype for each in b.tensors)
    first, second = (snapshot.tensors[0] for snapshot in locked)
    assert locked.nbytes == plain.nbytes
    assert first.untyped_storage().data_ptr() == locked[0].tensors[1].untyped_storage().data_ptr()
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()
    assert locked.holds(first)
    assert not locked.holds(plain[0].tensors[0])
    if torch.cuda.is_available():
        assert first.is_pinned()


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
    with pytest.raises(ValueError, match="2 devices are given for the snapshots of 3 tensors: give one device, or one"):
        History(point(0), 1, device=["cpu", "cpu"])
    with pytest.raises(ValueError, match="branch length 0 is too short"):
        history.branch(0)
    with pytest.raises(IndexError):
        history[1]
