"""The contract that every predictor of the catalogue keeps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from context_fakes import Bowl, with_context
from leapverify.core import weights
from leapverify.errors import Declined
from leapverify.predict import CATALOGUE, Predictor, predictor
from leapverify.trajectory.history import GroupHyper, History, OptimizerState
from nino_checkpoints import write_graph, write_mlp

SHAPES = [(), (0,), (2, 0, 3), (1,), (7,), (6, 5), (3, 4, 2), (300,)]
UNEVEN = (10, 60, 100, 150, 200, 275)
EVEN = tuple(range(25, 25 * 17, 25))
FINE = 6
"""Steps before each checkpoint whose weights are kept one by one."""
SOLVED = ("rre", "anderson", "dmd", "rank1", "subspace", "ema-posthoc")
"""Those whose factors come out of a system of equations, which passes rounding on enlarged."""
CHOOSING = ("anderson", "rre", "fast-forward", "subspace")
"""Those that take another path where a candidate's loss is rounded otherwise."""

each_name = pytest.mark.parametrize("name", [*CATALOGUE, "taylor-1", "taylor-5", "lawa-3", "dmd-1"])


@pytest.fixture(autouse=True, scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Files of the right architecture for the predictors that read one."""
    folder = tmp_path_factory.mktemp("nino")
    for name, write in (("nino-mlp", write_mlp), ("nino", write_graph)):
        OPTIONS[name] = {"file": write(folder / f"{name}.pt")}
    # None of these tensors is in a graph: they go through the per-parameter form.
    OPTIONS["nino"]["rest"] = OPTIONS["nino-mlp"]["file"]
    yield
    OPTIONS.clear()


LEARNT = ("nino-mlp", "nino", "introspection", "wnn")
"""Networks: what one of random weights makes of a state at rest is its own affair, as long as it is finite."""

OPTIONS: dict[str, dict[str, Any]] = {}


def method_of(name: str) -> Predictor:
    return predictor(name, **OPTIONS.get(name, {}))


def random_point(generator: torch.Generator, scale: float = 1.0) -> list[Tensor]:
    return [torch.randn(shape, generator=generator) * scale for shape in SHAPES]


def steps_of(name: str) -> tuple[int, ...]:
    return EVEN if method_of(name).needs.even else UNEVEN


def history_of(name: str, dtype: torch.dtype = torch.float32, length: int | None = None) -> History:
    """A random walk with everything that a predictor may ask for."""
    generator = torch.Generator().manual_seed(11)
    steps = steps_of(name)[-(length or 100) :]
    point = random_point(generator)
    history, fine = History(point, 16, dtype=dtype), History(point, FINE, dtype=dtype)
    with_context(history, fine, point, Bowl(random_point(generator)))
    for step in steps:
        for before in range(FINE - 1, -1, -1):
            fine.push(step - before, point)
            torch._foreach_add_(point, random_point(generator, 0.01 if before == 1 else 1e-4))
        history.push(step, fine[-1].tensors)
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
    kept = [t for each in history.recent or () for t in each.tensors]
    for tensor in kept:
        sha.update(repr(tensor).encode())
    return sha.hexdigest()


def widened(narrow: History) -> History:
    wide = History([torch.zeros(shape) for shape in SHAPES], 16)
    for snapshot in narrow:
        wide.push(snapshot.step, [each.float() for each in snapshot.tensors])
    return wide


def tried(method: Predictor, history: History, horizon: int) -> tuple[Sequence[Tensor], str | None]:
    """The prediction, or why there is none."""
    try:
        return method.predict(history, horizon), None
    except Declined as declined:
        return (), declined.reason


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@each_name
def test_satisfies_the_protocol(name: str) -> None:
    method = method_of(name)
    assert isinstance(method, Predictor)
    assert method.name == name
    assert method.needs.snapshots >= 1


@each_name
@pytest.mark.parametrize("horizon", [1, 50, 1000])
def test_writes_only_out_and_is_deterministic_and_finite(name: str, horizon: int) -> None:
    history = history_of(name)
    before, rng = digest(history), torch.get_rng_state()
    first = method_of(name).predict(history, horizon)
    second = method_of(name).predict(history, horizon)
    assert digest(history) == before
    assert torch.equal(torch.get_rng_state(), rng)
    assert same(first, second)
    assert weights.all_finite(first)
    assert [each.shape for each in first] == [torch.Size(shape) for shape in SHAPES]
    assert all(each.dtype == torch.float32 and not each.requires_grad for each in first)


@each_name
def test_out_none_buffers_and_model_parameters_give_the_same(name: str) -> None:
    history = history_of(name)
    expected = method_of(name).predict(history, 25)
    dirty = [torch.full(shape, math.nan) for shape in SHAPES]
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    for out in (dirty, parameters):
        places = [each.data_ptr() for each in out]
        assert method_of(name).predict(history, 25, out=out) is out
        assert same(out, expected)
        assert places == [each.data_ptr() for each in out]
    assert all(parameter.grad_fn is None and parameter.requires_grad for parameter in parameters)


@each_name
def test_strides_do_not_matter(name: str) -> None:
    history = history_of(name)
    expected = method_of(name).predict(history, 25)
    out = [torch.zeros(shape[::-1]).permute(tuple(range(len(shape)))[::-1]) for shape in SHAPES]
    assert not all(each.is_contiguous() for each in out)
    method_of(name).predict(history, 25, out=out)
    assert same(out, expected)


@each_name
def test_blocks_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "random":
        pytest.skip("the order in which signs are drawn is that of the blocks, whose size is fixed")
    expected = method_of(name).predict(history_of(name), 25)
    monkeypatch.setattr(weights, "CPU_BLOCK", 7)
    for got, wanted in zip(method_of(name).predict(history_of(name), 25), expected, strict=True):
        tolerance = 1e-4 if name.startswith(SOLVED) or name in CHOOSING else 1e-6
        torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


@each_name
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_history_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    narrow = history_of(name, dtype)
    assert narrow.recent is not None
    wide = widened(narrow)
    wide.recent, wide.optimizer, wide.layout = widened(narrow.recent), narrow.optimizer, narrow.layout
    # What is kept beside the ring is kept in its own type.
    wide.averages, wide.milestones = narrow.averages, narrow.milestones
    wide.selection, wide.gradients = narrow.selection, narrow.gradients
    assert same(method_of(name).predict(narrow, 30), method_of(name).predict(wide, 30))


@each_name
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_out_of_another_type_is_the_float32_result_rounded(name: str, dtype: torch.dtype) -> None:
    history = history_of(name)
    out = [torch.zeros(shape, dtype=dtype) for shape in SHAPES]
    method_of(name).predict(history, 30, out=out)
    assert same(out, [each.to(dtype) for each in method_of(name).predict(history, 30)])


@each_name
def test_declines_with_fewer_snapshots_than_it_needs(name: str) -> None:
    needs = method_of(name).needs
    short = history_of(name, length=needs.snapshots - 1) if needs.snapshots > 1 else History([torch.zeros(1)], 1)
    with pytest.raises(Declined, match=f"needs {needs.snapshots} snapshots, the history holds {needs.snapshots - 1}"):
        method_of(name).predict(short, 5)
    if not (needs.milestones or needs.averages):
        method_of(name).predict(history_of(name, length=needs.snapshots), 5)


@each_name
@pytest.mark.parametrize(
    ("need", "attribute", "words"),
    [
        ("optimizer_state", "optimizer", "needs the optimizer state"),
        ("recent", "recent", "steps one by one"),
        ("averages", "averages", "needs running averages"),
        ("milestones", "milestones", "needs states of early steps"),
        ("layout", "layout", "needs the names of the tensors"),
        ("selection", "selection", "needs held-out losses"),
        ("gradients", "gradients", "needs gradients"),
    ],
)
def test_declines_without_what_it_needs_and_does_without_all_else(
    name: str, need: str, attribute: str, words: str
) -> None:
    history, method = history_of(name), method_of(name)
    setattr(history, attribute, None)
    if getattr(method.needs, need):
        with pytest.raises(Declined, match=words) as declined:
            method.predict(history, 5)
        assert words in declined.value.reason
    else:
        method.predict(history, 5)


@each_name
def test_uneven_spacing_is_declined_by_those_that_mind(name: str) -> None:
    if not method_of(name).needs.even:
        assert steps_of(name) == UNEVEN
        return
    history = history_of(name)
    history.push(history.steps[-1] + 7, history[-1].tensors)
    with pytest.raises(Declined, match="needs evenly spaced snapshots, these lie 7, 25 steps apart"):
        method_of(name).predict(history, 5)


@each_name
def test_the_horizon_matters_only_where_it_is_said_to(name: str) -> None:
    near, far = (method_of(name).predict(history_of(name), horizon) for horizon in (5, 50))
    if not method_of(name).needs.horizon:
        assert same(near, far)
    elif name != "hold":
        assert not same(near, far)


@each_name
def test_asked_twice_it_measures_once(name: str) -> None:
    history, method = history_of(name), method_of(name)
    bowl = history.selection
    assert isinstance(bowl, Bowl)
    first = method.predict(history, 25)
    asked = list(bowl.asked)
    assert bool(asked) <= (method.needs.selection or method.needs.gradients or name in CHOOSING)
    assert same(first, method.predict(history, 25))
    assert bowl.asked == asked


@each_name
def test_a_history_that_is_not_finite_never_gives_finite_nonsense(name: str) -> None:
    """Declined, or the tensors that were hit are not finite, which is rejected before any loss is computed."""
    history, method = history_of(name), method_of(name)
    assert history.recent is not None
    point, step = [each.clone() for each in history[-1].tensors], history.steps[-1] + 25
    point[5][2, 3] = math.nan
    for fine in range(step - FINE + 1, step + 1):
        history.recent.push(fine, point)
    history.push(step, point)
    history.optimizer = state_of([torch.full(shape, 1e-3) for shape in SHAPES], step)
    out, reason = tried(method, history, 25)
    assert "finite" in reason if reason is not None else not weights.all_finite(out)


@each_name
@pytest.mark.parametrize("horizon", [0, -3])
def test_a_horizon_below_one_is_refused(name: str, horizon: int) -> None:
    with pytest.raises(ValueError, match=f"horizon {horizon} is too short: predict at least 1 step on"):
        method_of(name).predict(history_of(name), horizon)


@each_name
def test_out_that_does_not_fit_is_refused_before_anything_is_written(name: str) -> None:
    history = history_of(name)
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
            method_of(name).predict(history, 5, out=out)
    assert digest(history) == before
    assert not any(bool(each.any()) for each in zeros)


@each_name
def test_a_trajectory_at_rest_stays_there(name: str) -> None:
    rest = [torch.zeros(3, 2)]
    history, fine = History(rest, 16), History(rest, FINE)
    with_context(history, fine, rest, Bowl(rest))
    for step in steps_of(name):
        for before in range(FINE - 1, -1, -1):
            fine.push(step - before, rest)
        history.push(step, rest)
    history.optimizer = state_of(rest, history.steps[-1])
    (out,) = method_of(name).predict(history, 50)
    assert weights.all_finite([out])
    assert torch.equal(out, torch.zeros(3, 2)) or name in LEARNT
