"""The store of past weights: averages against float64 references, memory as stated, a state that comes back whole."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leapverify.core import weights
from leapverify.leap.anneal.averages import AnnealMemory, AnnealStore, Candidate
from leapverify.predict.decay_shapes import coefficients

SHAPES = [(), (0, 3), (5,), (40, 7), (3, 2, 2)]


def states(count: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[list[Tensor]]:
    """A row of weights, each a small step from the one before."""
    generator = torch.Generator().manual_seed(seed)
    now = [torch.randn(shape, generator=generator) for shape in SHAPES]
    found = []
    for _ in range(count):
        now = [each + 0.1 * torch.randn(each.shape, generator=generator) for each in now]
        found.append([each.to(dtype) for each in now])
    return found


def filled(
    memory: AnnealMemory, past: Sequence[Sequence[Tensor]], steps: Sequence[int] | None = None, **options: Any
) -> AnnealStore:
    store = AnnealStore(past[0], memory, **options)
    for step, tensors in zip(steps or range(0, len(past) * memory.every, memory.every), past, strict=True):
        assert store.push(step, tensors)
    return store


def empty(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.full(shape, math.nan, dtype=dtype) for shape in SHAPES]


def average(past: Sequence[Sequence[Tensor]], factors: Sequence[float]) -> list[Tensor]:
    """The slow form in float64."""
    rows = zip(*past, strict=True)
    return [sum(c * each.double() for c, each in zip(factors, row, strict=True)) for row in rows]  # type: ignore[misc]


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("block", [1 << 18, 11])
def test_a_ring_gives_the_weighted_sum_of_its_newest(
    kept: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "CPU_BLOCK", block)
    past = states(9)
    store = filled(AnnealMemory(6, 5, dtype=kept), past)
    rounded = [[each.to(kept) for each in tensors] for tensors in past]
    out = empty()
    for candidate in store.candidates():
        store.write(candidate, out)
        factors = coefficients(candidate.count, candidate.shape)
        expected = average(rounded[-candidate.count :], factors)
        for found, reference in zip(out, expected, strict=True):
            torch.testing.assert_close(found.double(), reference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_out_may_have_any_type_and_be_parameters(dtype: torch.dtype) -> None:
    past = states(4)
    store = filled(AnnealMemory(4, 1, emas=(0.5,)), past)
    for candidate in store.candidates():
        wide, out = empty(), [nn.Parameter(each) for each in empty(dtype)]
        places = [each.data_ptr() for each in out]
        store.write(candidate, wide)
        store.write(candidate, out)
        assert all(torch.equal(a.to(dtype), b) for a, b in zip(wide, out, strict=True))
        assert places == [each.data_ptr() for each in out]
        assert all(each.grad_fn is None for each in out)


def test_equal_states_average_to_themselves_bit_for_bit() -> None:
    [same] = states(1)
    store = filled(AnnealMemory(12, 1, emas=(0.3, 0.99)), [same] * 14)
    for candidate in store.candidates():
        out = empty()
        store.write(candidate, out)
        assert all(torch.equal(a, b) for a, b in zip(out, same, strict=True)), candidate


def test_weights_of_other_strides_are_taken() -> None:
    past = [[each.T.contiguous().T if each.ndim == 2 else each for each in tensors] for tensors in states(3)]
    store = filled(AnnealMemory(3, 1), past)
    out = [each.T.contiguous().T if each.ndim == 2 else each for each in empty()]
    store.write(Candidate("ring", 3, "linear", 2), out)
    for found, reference in zip(out, average(past, [1 / 3] * 3), strict=True):
        torch.testing.assert_close(found.double(), reference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("steps", [[0, 5, 10, 15, 20, 25], [3, 8, 20, 21 + 5, 60, 65]])
def test_an_ema_starts_from_the_first_weights_and_knows_the_steps_between(steps: list[int], dtype: torch.dtype) -> None:
    past = states(6, dtype)
    store = filled(AnnealMemory(0, 5, emas=(0.9, 0.99)), past, steps)
    for decay in (0.9, 0.99):
        expected = [each.double() for each in past[0]]
        for gap, tensors in zip([b - a for a, b in itertools.pairwise(steps)], past[1:], strict=True):
            d = decay**gap
            expected = [d * mean + (1 - d) * each.double() for mean, each in zip(expected, tensors, strict=True)]
        [candidate] = [each for each in store.candidates() if each.decay == decay]
        out = empty()
        store.write(candidate, out)
        for found, reference in zip(out, expected, strict=True):
            torch.testing.assert_close(found.double(), reference, rtol=1e-5, atol=1e-6)


def test_an_ema_of_a_constant_drift_lags_by_its_time_constant() -> None:
    decay, tensors = 0.9, [torch.zeros(3)]
    store = AnnealStore(tensors, AnnealMemory(0, 1, emas=(decay,)))
    for step in range(400):
        store.push(step, [torch.full((3,), float(step))])
    [candidate] = store.candidates()
    store.write(candidate, tensors)
    assert candidate.window_steps == 10
    assert tensors[0].tolist() == pytest.approx([399 - decay / (1 - decay)] * 3, rel=1e-5)


def test_only_what_is_due_is_taken() -> None:
    [tensors] = states(1)
    store = AnnealStore(tensors, AnnealMemory(3, 5))
    assert [step for step in range(7, 30) if store.push(step, tensors)] == [7, 12, 17, 22, 27]
    assert store.held == 3
    assert not store.due(31)
    assert store.due(32)


def test_windows_are_a_short_series_with_true_steps() -> None:
    past = states(13)
    store = filled(AnnealMemory(16, 5), past)
    counts = [each.count for each in store.candidates() if each.shape == "linear"]
    assert counts == [2, 3, 4, 6, 8, 12, 13]
    assert all(each.window_steps == 5 * (each.count - 1) for each in store.candidates())
    # Of two snapshots, the cosine is the mean again.
    assert [each.shape for each in store.candidates() if each.count == 2] == ["linear", "sqrt"]
    assert [each.shape for each in store.candidates() if each.count == 3] == ["linear", "cosine", "sqrt"]
    uneven = filled(AnnealMemory(8, 5), past[:4], [0, 5, 25, 31])
    assert [each.window_steps for each in uneven.candidates() if each.shape == "linear"] == [6, 26, 31]


@pytest.mark.parametrize(("held", "expected"), [(0, []), (1, []), (2, [2]), (3, [2, 3]), (8, [2, 3, 4, 6, 8])])
def test_nothing_is_offered_before_there_are_two(held: int, expected: list[int]) -> None:
    past = states(9)
    store = AnnealStore(past[0], AnnealMemory(8, 1, emas=(0.9,)))
    for step in range(held):
        store.push(step, past[step])
    found = store.candidates()
    assert [each.count for each in found if each.shape == "linear"] == expected
    assert [each.window_steps for each in found if each.kind == "ema"] == ([held - 1] if held > 1 else [])


def test_memory_is_as_stated_and_used_again() -> None:
    past = states(12)
    elements = sum(each.numel() for each in past[0])
    memory = AnnealMemory(4, 1, emas=(0.9, 0.99), dtype=torch.bfloat16)
    store = AnnealStore(past[0], memory)
    assert store.nbytes == 0
    assert store.planned_bytes == elements * (4 * 2 + 2 * 4)
    for turn in range(2):
        for step, tensors in enumerate(past):
            store.push(100 * turn + step, tensors)
        assert store.nbytes == store.planned_bytes
        store.reset()
    assert store.nbytes == store.planned_bytes


def test_reset_begins_anew() -> None:
    old, new = states(5, seed=1), states(5, seed=2)
    memory = AnnealMemory(4, 5, emas=(0.9,))
    store, fresh = filled(memory, old), filled(memory, new)
    store.reset()
    assert store.candidates() == []
    for step, tensors in zip(range(0, 25, 5), new, strict=True):
        assert store.push(step, tensors)
    assert store.candidates() == fresh.candidates()
    for candidate in store.candidates():
        a, b = empty(), empty()
        store.write(candidate, a)
        fresh.write(candidate, b)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("held", [0, 1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_state_comes_back_bit_for_bit(held: int, dtype: torch.dtype, tmp_path: Any) -> None:
    past = states(14)
    memory = AnnealMemory(5, 5, emas=(0.9, 0.99), dtype=dtype)
    store = filled(memory, past[:held]) if held else AnnealStore(past[0], memory)
    torch.save(store.state_dict(), tmp_path / "state.pt")
    other = filled(memory, states(3, seed=9))
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for turn in range(held, 14):
        for each in (store, other):
            each.push(5 * turn + 1, past[turn])
        same(store, other)


def same(one: AnnealStore, other: AnnealStore) -> None:
    assert one.candidates() == other.candidates()
    a, b = one.state_dict(), other.state_dict()
    assert (a["steps"], a["first"], a["last"], a["updates"]) == (b["steps"], b["first"], b["last"], b["updates"])
    for name in ("snapshots", "emas"):
        flat = ([each for tensors in state[name] for each in tensors] for state in (a, b))
        assert all(torch.equal(x, y) for x, y in zip(*flat, strict=True))


def test_a_store_may_load_its_own_state() -> None:
    store = filled(AnnealMemory(3, 1, emas=(0.9,)), states(7))
    before = copy.deepcopy(store.state_dict())
    store.load_state_dict(store.state_dict())
    other = AnnealStore(states(1)[0], store.memory)
    other.load_state_dict(before)
    same(store, other)


def test_of_a_longer_ring_the_newest_are_taken() -> None:
    past = states(6)
    store = filled(AnnealMemory(6, 5), past)
    shorter = AnnealStore(past[0], AnnealMemory(2, 5))
    shorter.load_state_dict(store.state_dict())
    assert shorter.state_dict()["steps"] == [20, 25]
    out = empty()
    shorter.write(Candidate("ring", 2, "linear", 5), out)
    for found, reference in zip(out, average(past[-2:], [0.5, 0.5]), strict=True):
        torch.testing.assert_close(found.double(), reference, rtol=1e-6, atol=1e-6)


def test_states_of_another_memory_or_model_are_refused_and_change_nothing() -> None:
    past = states(4)
    store = filled(AnnealMemory(4, 5), past)
    before = copy.deepcopy(store.state_dict())
    with pytest.raises(ValueError, match=r"kept with \{'every': 7.*use the same one"):
        store.load_state_dict(filled(AnnealMemory(4, 7), past).state_dict())
    wrong = store.state_dict() | {"snapshots": [[torch.zeros(2)] * len(SHAPES)]}
    with pytest.raises(ValueError, match="the annealing state has shape"):
        store.load_state_dict(wrong)
    other = AnnealStore(past[0], store.memory)
    other.load_state_dict(before)
    same(store, other)


def test_pinned_memory_is_left_out_without_an_accelerator() -> None:
    past = states(3)
    store = filled(AnnealMemory(3, 1, emas=(0.9,), device="cpu"), past, pinned=True)
    out = empty()
    store.write(store.candidates()[0], out)
    assert all(bool(torch.isfinite(each).all()) for each in out)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"snapshots": -1}, "snapshots = -1 cannot be kept"),
        ({"every": 0}, "every = 0 is no number of steps"),
        ({"emas": (0.9, 1.0)}, r"EMA decay 1.0 is not between 0 and 1"),
        ({"emas": (math.nan,)}, "EMA decay nan is not between 0 and 1"),
        ({"snapshots": 0}, "snapshots = 0 without an EMA average nothing"),
        ({"snapshots": 1}, "snapshots = 1 without an EMA average nothing"),
        ({"dtype": torch.float64}, "snapshot dtype torch.float64 is not kept"),
        ({"device": "moon"}, "device 'moon' is unknown"),
    ],
)
def test_memory_that_makes_no_sense(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        AnnealMemory(**options)


def test_bad_calls() -> None:
    past = states(3)
    store = filled(AnnealMemory(3, 5), past)
    with pytest.raises(ValueError, match="step 9 lies before step 10"):
        store.push(9, past[0])
    with pytest.raises(ValueError, match="the pushed weights has 2 tensors where 5 are needed"):
        store.push(20, past[0][:2])
    with pytest.raises(ValueError, match="4 snapshots are to be averaged and 3 are held"):
        store.write(Candidate("ring", 4, "linear", 15), empty())
    with pytest.raises(ValueError, match=r"no EMA of decay 0\.9 is held"):
        store.write(Candidate("ema", 3, "exponential", 10, 0.9), empty())
    with pytest.raises(ValueError, match="out has 1 tensors"):
        store.write(store.candidates()[0], empty()[:1])
    with pytest.raises(ValueError, match="no parameters are given"):
        AnnealStore([], AnnealMemory())
