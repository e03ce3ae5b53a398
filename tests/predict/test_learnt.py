"""`introspection` and `wnn`: slow float64 references, invariances, and when they decline."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from leapverify.errors import Declined
from leapverify.predict import Predictor
from leapverify.predict.learnt import NETWORKS
from leapverify.predict.learnt.files import Learnt
from leapverify.predict.learnt.inputs import CPU_CHUNK
from leapverify.predict.learnt.introspection import introspection_form
from leapverify.predict.learnt.wnn import wnn_form
from leapverify.trajectory.history import History
from leapverify.trajectory.milestones import Milestones

SHAPES = [(), (0,), (7,), (6, 5), (3, 4, 2), (CPU_CHUNK + 3,)]


def weights_of(kind: str, seed: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in NETWORKS[kind].shapes.items()}


def learnt(kind: str, weights: Mapping[str, Tensor] | None = None) -> Predictor:
    weights = weights_of(kind) if weights is None else weights
    return (
        introspection_form(Learnt(weights, {})) if kind == "introspection" else wnn_form(Learnt(weights, {"ahead": 2}))
    )


def path(steps: Sequence[int] = (0, 20, 40, 60, 80, 100), scale: float = 1.0) -> list[list[Tensor]]:
    """The states of a random walk."""
    generator = torch.Generator().manual_seed(5)
    now = [torch.randn(shape, generator=generator) * scale for shape in SHAPES]
    found = []
    for _ in steps:
        found.append(now)
        now = [each + torch.randn(each.shape, generator=generator) * (0.02 * scale) for each in now]
    return found


def history_of(steps: Sequence[int] = (0, 20, 40, 60, 80, 100), scale: float = 1.0) -> History:
    states = path(steps, scale)
    history = History(states[0], 5)
    history.milestones = Milestones()
    for step, state in zip(steps, states, strict=True):
        history.push(step, state)
    return history


def affine(weights: Mapping[str, Tensor], name: str, x: list[float], *, relu: bool = True) -> list[float]:
    found = []
    for row, bias in zip(weights[f"{name}.weight"].tolist(), weights[f"{name}.bias"].tolist(), strict=True):
        value = bias + sum(a * b for a, b in zip(row, x, strict=True))
        found.append(max(0.0, value) if relu else value)
    return found


def rms(values: list[float]) -> float:
    return math.sqrt(sum(each * each for each in values) / len(values))


def reference_introspection(weights: Mapping[str, Tensor], states: list[list[float]]) -> list[float]:
    """States: w_t, w_0.7t, w_0.4t, w_0 of one tensor."""
    size, moved = rms(states[0]), rms([now - first for now, first in zip(states[0], states[-1], strict=True)])
    found = []
    for now, *older in zip(*states, strict=True):
        x = [now / size, *((now - each) / moved for each in older)]
        found.append(now + moved * affine(weights, "out", affine(weights, "hidden", x), relu=False)[0])
    return found


def reference_wnn(weights: Mapping[str, Tensor], states: list[list[float]], share: float) -> list[float]:
    """States: w_1 ... w_5 of one tensor."""
    found = []
    for values in zip(*states, strict=True):
        spread = max(values) - min(values)
        a = [(each - values[0]) / (spread + 1e-5) / 2 for each in values]
        steps = [after - before for before, after in itertools.pairwise(a)]
        first = affine(weights, "values.1", affine(weights, "values.0", a))
        second = affine(weights, "differences.1", affine(weights, "differences.0", steps))
        y = affine(weights, "out", affine(weights, "joint", first + second), relu=False)[0]
        found.append(values[-1] + share * 2 * spread * y)
    return found


def near(got: Sequence[Tensor], wanted: list[list[float]]) -> None:
    for tensor, values in zip(got, wanted, strict=True):
        torch.testing.assert_close(tensor.reshape(-1).double(), torch.tensor(values).double(), rtol=2e-5, atol=2e-5)


def lists(state: Sequence[Tensor]) -> list[list[float]]:
    return [each.double().reshape(-1).tolist() for each in state]


def test_introspection_is_its_formula_in_float64() -> None:
    states = [lists(state) for state in path()]
    chosen = [states[5], states[3], states[2], states[0]]  # of steps 100, 60 (nearest to 70), 40, 0
    wanted = [
        reference_introspection(weights_of("introspection"), [each[i] for each in chosen]) if states[0][i] else []
        for i in range(len(SHAPES))
    ]
    near(learnt("introspection").predict(history_of(), 25), wanted)


@pytest.mark.parametrize("horizon", [1, 25, 100])
def test_wnn_is_its_formula_in_float64(horizon: int) -> None:
    states = [lists(state) for state in path()][1:]
    wanted = [reference_wnn(weights_of("wnn"), [each[i] for each in states], horizon / 40) for i in range(len(SHAPES))]
    near(learnt("wnn").predict(history_of(), horizon), wanted)


def test_introspection_says_the_same_for_every_horizon() -> None:
    history, method = history_of(), learnt("introspection")
    assert not method.needs.horizon
    for one, other in zip(method.predict(history, 1), method.predict(history, 1000), strict=True):
        assert torch.equal(one, other)


def test_a_factor_on_all_states_of_a_tensor_is_one_on_the_prediction() -> None:
    method = learnt("introspection")
    for one, other in zip(method.predict(history_of(), 9), method.predict(history_of(scale=0.125), 9), strict=True):
        assert torch.equal(one * 0.125, other)


def test_a_constant_added_to_all_states_is_added_to_the_prediction_of_wnn() -> None:
    history, method = history_of(), learnt("wnn")
    shifted = History(path()[0], 5)
    for snapshot in history:
        shifted.push(snapshot.step, [each + 4.0 for each in snapshot.tensors])
    for one, other in zip(method.predict(history, 9), method.predict(shifted, 9), strict=True):
        torch.testing.assert_close(one + 4.0, other, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_each_weight_is_predicted_alone_or_with_its_tensor(kind: str) -> None:
    whole, single = learnt(kind).predict(history_of(), 30), []
    for position in range(len(SHAPES)):
        history = History([torch.zeros(SHAPES[position])], 5)
        history.milestones = Milestones()
        for step, state in zip((0, 20, 40, 60, 80, 100), path(), strict=True):
            history.push(step, [state[position]])
        single += learnt(kind).predict(history, 30)
    for one, other in zip(whole, single, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_that_has_learnt_nothing_is_hold(kind: str) -> None:
    method = learnt(kind, NETWORKS[kind].untrained(0))
    for got, now in zip(method.predict(history_of(), 50), path()[-1], strict=True):
        assert torch.equal(got, now)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_weight_at_rest_stays(kind: str) -> None:
    history = History([torch.zeros(9)], 5)
    history.milestones = Milestones()
    for step in range(0, 120, 20):
        history.push(step, [torch.full((9,), 0.7)])
    assert torch.equal(learnt(kind).predict(history, 100)[0], torch.full((9,), 0.7))


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_is_not_finite_is_not_hidden(kind: str) -> None:
    history = history_of()
    history[-1].tensors[3][2, 1] = math.nan
    assert not torch.isfinite(learnt(kind).predict(history, 100)[3][2, 1])


def test_introspection_declines_without_the_states_of_its_shares() -> None:
    method = learnt("introspection")
    late = history_of((20, 40, 60, 80, 100))
    with pytest.raises(Declined, match="needs the state that the run began with, that of step 0 was not kept"):
        method.predict(late, 5)
    sparse = history_of((0, 40, 100))
    with pytest.raises(Declined, match=r"needs a state within 0.1 t of 0.7 t, at t = 100 the nearest is of 40"):
        method.predict(sparse, 5)
    sparse.milestones = None
    with pytest.raises(Declined, match="needs states of early steps, this history keeps none"):
        method.predict(sparse, 5)


def test_wnn_declines_what_is_not_even_or_not_enough() -> None:
    method = learnt("wnn")
    with pytest.raises(Declined, match="needs evenly spaced snapshots, these lie 20, 40 steps apart"):
        method.predict(history_of((0, 20, 60, 80, 100)), 5)
    with pytest.raises(Declined, match="needs 5 snapshots, the history holds 4"):
        method.predict(history_of((0, 20, 40, 60)), 5)
