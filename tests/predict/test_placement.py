"""Where the snapshots lie, and in which type, does not change what is predicted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from context_fakes import Bowl, with_context
from leapverify.core import weights
from leapverify.errors import Declined
from leapverify.predict import CATALOGUE, Prepares, predictor, prepare
from leapverify.trajectory.history import GroupHyper, History, OptimizerState

SHAPES = [(17, 9), (), (0, 4), (300,), (5, 3, 2)]
STEPS = (20, 70, 120, 170, 220)
FINE = 3
"""Steps before each checkpoint whose weights are kept one by one."""
ELEMENT_WISE = (
    "hold",
    "linear",
    "quadratic",
    "quadratic-paper",
    "momentum",
    "adam",
    "adam-constant",
    "taylor-3",
    "linear-fit",
    "plp",
    "xgrad",
    "lawa-5",
    "anneal-cosine",
    "ema-extrapolate",
    "lookahead",
    "outer-nesterov",
)
NAMES = [name for name in CATALOGUE if name not in ("nino", "nino-mlp")]
"""Without those that cannot be had without a file."""

each_name = pytest.mark.parametrize("name", NAMES)


def history_of(dtype: torch.dtype = torch.float32, moments: torch.dtype = torch.float32, **places: Any) -> History:
    generator = torch.Generator().manual_seed(3)
    point = [torch.randn(shape, generator=generator) for shape in SHAPES]
    history = History(point, len(STEPS), dtype=dtype, **places)
    fine = History(point, FINE, dtype=dtype, **places)
    if "meta" not in str(places):
        with_context(history, fine, point, Bowl(point))
    history.recent = fine
    for step in STEPS:
        for before in range(FINE - 1, -1, -1):
            fine.push(step - before, [each + before for each in point])
        history.push(step, point)
        point = [each + 0.01 * torch.randn(each.shape, generator=generator) for each in point]
    m = tuple(1e-3 * torch.randn(shape, generator=generator).to(moments) for shape in SHAPES)
    v = tuple((each.float().square() + 1e-7).to(moments) for each in m)
    hyper, count = (GroupHyper(0.9, 0.999, 1e-8, 0.01),), len(SHAPES)
    history.optimizer = OptimizerState(
        m, v, (STEPS[-1],) * count, (0,) * count, hyper, (lambda i: 1e-3 / i,), STEPS[-1]
    )
    return history


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class Places(TorchDispatchMode):
    """Notes on which devices is computed, and the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.computed: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        inputs, outputs = ({t for t in tree_flatten(x)[0] if isinstance(t, Tensor)} for x in ((args, kwargs), found))
        storages = {each.untyped_storage()._cdata for each in inputs}
        made = [each for each in outputs if each.untyped_storage()._cdata not in storages]
        self.largest = max([self.largest, *(each.numel() for each in made)])
        if not func.is_view and "copy" not in func.__name__ and any(each.numel() for each in outputs):
            self.computed |= {each.device.type for each in inputs | outputs}
        return found


@each_name
def test_a_ring_in_another_place_gives_the_same_bits(name: str) -> None:
    expected = predictor(name).predict(history_of(), 25)
    split = ["cpu"] * len(SHAPES)
    for places in ({"device": "cpu"}, {"device": split}, {"pinned": True}, {"device": split, "pinned": True}):
        assert same(predictor(name).predict(history_of(**places), 25), expected)


@pytest.mark.parametrize("name", ELEMENT_WISE)
@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_of_another_size_give_the_same_bits(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = predictor(name).predict(history_of(), 25)
    monkeypatch.setattr(weights, "CPU_BLOCK", block)
    assert same(predictor(name).predict(history_of(), 25), expected)


@pytest.mark.parametrize("name", ELEMENT_WISE)
@pytest.mark.parametrize("split", [False, True])
def test_all_is_computed_where_it_is_written_block_by_block(
    name: str, split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors without content stand for another device's; the snapshots are in host memory, wholly or in part."""
    monkeypatch.setattr(weights, "ACCELERATOR_BLOCK", 64)
    history = history_of(device=["cpu", "meta", "cpu", "cpu", "meta"] if split else "cpu", pinned=True)
    out = [torch.empty(shape, device="meta") for shape in SHAPES]
    with Places() as places:
        predictor(name).predict(history, 25, out=out)
    assert places.computed <= {"meta"}
    assert places.computed or name == "hold"
    assert places.largest <= 64


@pytest.mark.parametrize("name", ["random", "quadratic-clamped"])
def test_norms_are_summed_where_the_prediction_is_written(name: str) -> None:
    """The numbers that are read come from the other device, which cannot give any here."""
    history = history_of(device="cpu")
    with pytest.raises((RuntimeError, NotImplementedError), match=r"[Mm]eta"):
        predictor(name).predict(history, 25, out=[torch.empty(shape, device="meta") for shape in SHAPES])


def test_prepared_predictors_read_nothing_more_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    history, methods = history_of(), [predictor(name) for name in NAMES]
    out = [torch.empty(shape) for shape in SHAPES]
    expected = [[each.clone() for each in method.predict(history, 25, out=out)] for method in methods]
    history.forget()
    prepare([*methods, predictor("taylor-9")], history, out)
    assert {method.name for method in methods if isinstance(method, Prepares)} >= {"random", "quadratic-clamped", "rre"}

    def refuse(*_: object) -> None:
        raise AssertionError("read from the device")

    for reading in ("tolist", "item", "cpu", "numpy", "__float__", "__bool__"):
        monkeypatch.setattr(Tensor, reading, refuse)
    found = [[each.clone() for each in method.predict(history, 25, out=out)] for method in methods]
    monkeypatch.undo()
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))


def test_preparing_from_too_little_is_left_to_the_prediction() -> None:
    history = History([torch.zeros(3)], 3)
    history.push(1, [torch.zeros(3)])
    prepare([predictor("random")], history, [torch.zeros(3)])
    with pytest.raises(Declined, match="needs 2 snapshots"):
        predictor("random").predict(history, 5)


def bfloat16_everywhere() -> tuple[History, list[Tensor]]:
    """Weights, snapshots and moments in bfloat16, and the weights themselves as a place to write to."""
    history = history_of(torch.bfloat16, torch.bfloat16)
    return history, [torch.nn.Parameter(each.clone()) for each in history[-1].tensors]


@pytest.mark.parametrize("horizon", [5, 50, 100])
def test_linear_in_bfloat16_is_the_exact_result_rounded_once(horizon: int) -> None:
    history, out = bfloat16_everywhere()
    predictor("linear").predict(history, horizon, out=out)
    for got, now, before in zip(out, history[-1].tensors, history[-2].tensors, strict=True):
        exact = now.double() + horizon / 50 * (now.double() - before.double())
        assert_rounded(got, exact)


@pytest.mark.parametrize("horizon", [5, 50, 100])
def test_adam_in_bfloat16_is_the_exact_result_rounded_once(horizon: int) -> None:
    history, out = bfloat16_everywhere()
    predictor("adam").predict(history, horizon, out=out)
    state = history.optimizer
    assert state is not None
    for got, now, first, second in zip(out, history[-1].tensors, state.m, state.v, strict=True):
        exact, m, v = now.double(), first.double(), second.double()
        for i in range(STEPS[-1] + 1, STEPS[-1] + horizon + 1):
            m, v, eta = 0.9 * m, 0.999 * v, 1e-3 / i
            step = eta * m / (1 - 0.9**i) / ((v / (1 - 0.999**i)).sqrt() + 1e-8)
            exact = exact * (1 - eta * 0.01) - step
        assert_rounded(got, exact)


def assert_rounded(got: Tensor, exact: Tensor) -> None:
    """Equal to the exact result rounded to bfloat16; to a neighbour only where float32 cannot tell a tie."""
    wanted = exact.float().bfloat16()
    assert got.dtype == torch.bfloat16
    unit = exact.abs() * 2.0**-8 + 1e-30
    error = ((got.double() - exact).abs() / unit).flatten()
    assert bool((error <= 1 + 1e-4).all())  # half a unit in the last place is at most 2^-8 of the value
    assert float((got != wanted).double().mean() if got.numel() else 0.0) < 0.01
