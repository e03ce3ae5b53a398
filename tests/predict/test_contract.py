"""The contract that every predictor of the catalogue keeps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from leapverify import weights
from leapverify.history import GroupHyper, History, OptimizerState
from leapverify.predict import Declined, Predictor, names, predictor

SHAPES = [(), (0,), (2, 0, 3), (1,), (7,), (6, 5), (3, 4, 2), (300,)]
STEPS = (10, 60, 100, 150, 200, 275)

each_name = pytest.mark.parametrize("name", [*names(), "taylor-1", "taylor-5"])


def random_point(generator: torch.Generator, scale: float = 1.0) -> list[Tensor]:
    return [torch.randn(shape, generator=generator) * scale for shape in SHAPES]


def history_of(dtype: torch.dtype = torch.float32, length: int = 6) -> History:
    generator = torch.Generator().manual_seed(11)
    point = random_point(generator)
    history = History(point, 6, dtype=dtype)
    for step in STEPS[-length:]:
        history.push(step, point)
        weights.axpy_(point, 1.0, random_point(generator, 0.01))
    history.optimizer = state_of(random_point(generator, 1e-3), history.steps[-1])
    return history


def state_of(m: Sequence[Tensor], step: int) -> OptimizerState:
    hyper = (GroupHyper(0.9, 0.999, 1e-8, 0.01), GroupHyper(0.8, 0.95, 1e-4, 0.0))
    groups = tuple(i % 2 for i in range(len(m)))
    v = tuple(each.square() + 1e-7 for each in m)
    return OptimizerState(tuple(m), v, (step,) * len(m), groups, hyper, (lambda _: 1e-3,) * 2, step)


def digest(history: History) -> str:
    state = history.optimizer
    assert state is not None
    sha = hashlib.sha256(repr((history.steps, state.steps, state.step, state.hyper)).encode())
    for tensor in [*(t for snapshot in history for t in snapshot.tensors), *state.m, *state.v]:
        sha.update(tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else repr(tensor).encode())
    return sha.hexdigest()


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@each_name
def test_satisfies_the_protocol(name: str) -> None:
    method = predictor(name)
    assert isinstance(method, Predictor)
    assert method.name == name
    assert method.needs.snapshots >= 1


@each_name
@pytest.mark.parametrize("horizon", [1, 50, 1000])
def test_writes_only_out_and_is_deterministic_and_finite(name: str, horizon: int) -> None:
    history = history_of()
    before, rng = digest(history), torch.get_rng_state()
    first = predictor(name).predict(history, horizon)
    second = predictor(name).predict(history, horizon)
    assert digest(history) == before
    assert torch.equal(torch.get_rng_state(), rng)
    assert same(first, second)
    assert weights.all_finite(first)
    assert [each.shape for each in first] == [torch.Size(shape) for shape in SHAPES]
    assert all(each.dtype == torch.float32 and not each.requires_grad for each in first)


@each_name
def test_out_none_buffers_and_model_parameters_give_the_same(name: str) -> None:
    history = history_of()
    expected = predictor(name).predict(history, 25)
    dirty = [torch.full(shape, math.nan) for shape in SHAPES]
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    for out in (dirty, parameters):
        places = [each.data_ptr() for each in out]
        assert predictor(name).predict(history, 25, out=out) is out
        assert same(out, expected)
        assert places == [each.data_ptr() for each in out]
    assert all(parameter.grad_fn is None and parameter.requires_grad for parameter in parameters)


@each_name
def test_strides_do_not_matter(name: str) -> None:
    history = history_of()
    expected = predictor(name).predict(history, 25)
    out = [torch.zeros(shape[::-1]).permute(tuple(range(len(shape)))[::-1]) for shape in SHAPES]
    assert not all(each.is_contiguous() for each in out)
    predictor(name).predict(history, 25, out=out)
    assert same(out, expected)


@each_name
def test_blocks_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "random":
        pytest.skip("the order in which signs are drawn is that of the blocks, whose size is fixed")
    expected = predictor(name).predict(history_of(), 25)
    monkeypatch.setattr(weights, "CPU_BLOCK", 7)
    for got, wanted in zip(predictor(name).predict(history_of(), 25), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


@each_name
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_history_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    narrow = history_of(dtype)
    wide = History([torch.zeros(shape) for shape in SHAPES], 6)
    for snapshot in narrow:
        wide.push(snapshot.step, [each.float() for each in snapshot.tensors])
    wide.optimizer = narrow.optimizer
    assert same(predictor(name).predict(narrow, 30), predictor(name).predict(wide, 30))


@each_name
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_out_of_another_type_is_the_float32_result_rounded(name: str, dtype: torch.dtype) -> None:
    history = history_of()
    out = [torch.zeros(shape, dtype=dtype) for shape in SHAPES]
    predictor(name).predict(history, 30, out=out)
    assert same(out, [each.to(dtype) for each in predictor(name).predict(history, 30)])


@each_name
def test_declines_with_less_than_it_needs(name: str) -> None:
    needs = predictor(name).needs
    short = history_of(length=needs.snapshots - 1) if needs.snapshots > 1 else History([torch.zeros(1)], 1)
    with pytest.raises(Declined, match=f"needs {needs.snapshots} snapshots, the history holds {needs.snapshots - 1}"):
        predictor(name).predict(short, 5)
    history = history_of(length=needs.snapshots)
    history.optimizer = None
    if needs.optimizer_state:
        with pytest.raises(Declined, match="needs the optimizer state") as declined:
            predictor(name).predict(history, 5)
        assert "optimizer state" in declined.value.reason
    else:
        predictor(name).predict(history, 5)


@each_name
@pytest.mark.parametrize("horizon", [0, -3])
def test_a_horizon_below_one_is_refused(name: str, horizon: int) -> None:
    with pytest.raises(ValueError, match=f"horizon {horizon} is too short: predict at least 1 step on"):
        predictor(name).predict(history_of(), horizon)


@each_name
def test_out_that_does_not_fit_is_refused_before_anything_is_written(name: str) -> None:
    history = history_of()
    before = digest(history)
    zeros = [torch.zeros(shape) for shape in SHAPES]
    bad = {
        "out shares memory with the history at position 5": [*zeros[:5], history[0].tensors[5].view(6, 5), *zeros[6:]],
        "out has 1 tensors where 8 are needed": zeros[:1],
        r"out has shape \(8,\) at position 4": [*zeros[:4], torch.zeros(8), *zeros[5:]],
        "out has type torch.int64 at position 0": [torch.zeros((), dtype=torch.int64), *zeros[1:]],
    }
    for message, out in bad.items():
        with pytest.raises(ValueError, match=message):
            predictor(name).predict(history, 5, out=out)
    assert digest(history) == before
    assert not any(bool(each.any()) for each in zeros)


@each_name
def test_a_trajectory_at_rest_stays_finite(name: str) -> None:
    history = History([torch.zeros(3, 2)], 6)
    for step in STEPS:
        history.push(step, [torch.zeros(3, 2)])
    history.optimizer = state_of([torch.zeros(3, 2)], STEPS[-1])
    assert torch.equal(predictor(name).predict(history, 50)[0], torch.zeros(3, 2))
