"""Whatever goes wrong in the engine, the run ends bit for bit as if the engine had never been there."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leap_faults import ERRORS, MODES, NON_FINITE, PLACES, Fault, struck
from leap_loops import STEPS, classified, make
from leapverify.leap.transaction import Transaction

ALWAYS = {"policy": "fixed", "predictor": "linear", "horizon": 3}
AT = {"prediction raises half-way": 1, "a copy raises half-way": 5}


@pytest.mark.failure(6, 7, 8, 9)
@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("mode", ["shadow", "live", "live, adam"])
def test_a_fault_of_any_kind_leaves_the_run_as_it_was(kind: str, mode: str) -> None:
    ended = struck("mlp", mode, Fault(kind, AT.get(kind, 2), "OutOfMemoryError"))
    assert ended.fired
    assert ended.escaped is None
    assert ended.same
    if kind in NON_FINITE or kind in ("interrupt", "loss disturbs the model", "a logger raises"):
        assert ended.disabled is None


@pytest.mark.failure(6, 9)
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("kind", ["loss raises", "prediction raises half-way", "a copy raises half-way"])
def test_every_error_is_told_once_and_switches_leaping_off(kind: str, error: str) -> None:
    ended = struck("mlp", "live", Fault(kind, 2, error))
    assert ended.same
    assert error in (ended.disabled or "")
    assert ended.statuses.count("off") == 1


@pytest.mark.failure(6, 7, 8, 9)
@pytest.mark.parametrize("name", ["vision", "home-made", "frozen", "gpt2", "accumulating", "scaled", "compiled"])
def test_random_faults_on_every_kind_of_model(name: str) -> None:
    chance = random.Random(name)
    for _ in range(4):
        kind, mode = chance.choice(list(PLACES)), chance.choice(list(MODES))
        ended = struck(name, mode, Fault(kind, chance.randint(1, 8), chance.choice(list(ERRORS))))
        assert (ended.same, ended.escaped) == (True, None), (kind, mode)


# --- what is not finite -----------------------------------------------------------------------------------------------


@pytest.mark.failure(8)
@pytest.mark.parametrize("kind", ["prediction has a NaN", "prediction has an infinity", "an old snapshot has a NaN"])
def test_a_prediction_that_is_not_finite_is_rejected_and_recorded(kind: str) -> None:
    ended = struck("mlp", "live", Fault(kind, 1))
    assert ended.statuses.count("nonfinite") == 1
    assert ended.recorded
    assert ended.disabled is None


@pytest.mark.failure(8)
def test_a_prediction_that_turns_out_not_finite_when_it_is_made_again_is_rejected() -> None:
    """The accepted state is written a second time; the first time it was finite."""
    ended = struck("mlp", "shadow", Fault("prediction has a NaN", 2))
    assert ended.statuses.count("nonfinite") == 1
    assert ended.disabled is None


@pytest.mark.failure(8)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["gradient", "weight"])
def test_gradients_and_weights_that_are_not_finite_reset_the_history(bad: float, where: str) -> None:
    loop = make("mlp")
    leap = loop.leap(mode="live", **ALWAYS, criterion="always")
    loop.run(8, leap)
    first = next(iter(loop.model.parameters()))
    hook = first.register_hook(lambda grad: torch.full_like(grad, bad) if where == "gradient" else grad)
    if where == "weight":
        first.data[0].fill_(bad)
    [event] = loop.run(4, leap, start=8)
    assert event.status == "nonfinite"
    assert event.reason == "the weights hold values that are not finite"
    assert leap.disabled is None
    assert len(leap._driver.engine.weights.history) == 0
    with torch.no_grad():  # the user loads a good state again
        loop.model.load_state_dict(make("mlp").model.state_dict())
        hook.remove()
        loop.optimizer.state.clear()
    events = loop.run(STEPS, leap, start=12)
    assert leap.disabled is None
    assert any(event.status == "accepted" for event in events)


# --- putting back -----------------------------------------------------------------------------------------------------


@pytest.mark.failure(6, 9)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory left"), MemoryError(), RuntimeError("staging")])
def test_where_putting_all_back_at_once_fails_it_goes_one_by_one(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(out: list[Tensor], source: list[Tensor]) -> None:
        out[0].copy_(source[0])
        raise error

    parameters = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5))]
    kept = [each.detach().clone() for each in parameters]
    monkeypatch.setattr("leapverify.leap.transaction.copy_", failing)
    with Transaction(parameters, kept) as transaction:
        for each in transaction.target:
            each.fill_(7.0)
    for each, before in zip(parameters, kept, strict=True):
        assert torch.equal(each, before)


# --- a model that changes ---------------------------------------------------------------------------------------------


def _unfreeze(loop: Any) -> None:
    loop.model.body[4].weight.requires_grad_(True)


def _new(loop: Any) -> None:
    loop.model.extra = nn.Parameter(torch.zeros(3))
    loop.optimizer.add_param_group({"params": [loop.model.extra]})


def _replace(loop: Any) -> None:
    loop.model.body[4] = nn.Linear(16, 3)
    loop.optimizer.add_param_group({"params": list(loop.model.body[4].parameters())})


def _widen(loop: Any) -> None:
    """Three more classes, by another matrix."""
    loop.model.body[4] = nn.Linear(16, 6)
    loop.optimizer.add_param_group({"params": list(loop.model.body[4].parameters())})


def _tie(loop: Any) -> None:
    """The bias of the norm becomes that of the first layer."""
    loop.model.body[1].bias = loop.model.body[0].bias


def _convert(loop: Any) -> None:
    """The weights in bfloat16: moments of the old type go."""
    loop.model.to(torch.bfloat16)
    loop.optimizer.state.clear()


def _freeze_most(loop: Any) -> None:
    for parameter in list(loop.model.parameters())[1:]:
        parameter.requires_grad_(False)


def _freeze_all(loop: Any) -> None:
    loop.model.requires_grad_(False)
    loop.model.body[4].bias.requires_grad_(True)


CHANGES = {
    "unfreeze": _unfreeze,
    "new parameter": _new,
    "layer replaced": _replace,
    "layer widened": _widen,
    "tied later": _tie,
    "type": _convert,
    "freeze most": _freeze_most,
    "freeze all but a bias": _freeze_all,
}


def _adaptive(model: nn.Module, batch: Any) -> Tensor:
    dtype = next(model.parameters()).dtype
    return classified(model, (batch[0].to(dtype), batch[1])).float()


@pytest.mark.failure(13)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mode", ["shadow", "live"])
def test_any_change_of_the_model_begins_a_new_history_and_nothing_crashes(change: str, mode: str) -> None:
    loop = make("mlp")
    loop.losses = _adaptive
    if change == "unfreeze":
        loop.model.body[4].weight.requires_grad_(False)
        loop.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    leap = loop.leap(mode=mode, **ALWAYS, criterion="never")
    loop.run(12, leap)
    CHANGES[change](loop)
    event = loop.run(4, leap, start=12)[-1]
    assert event.reason.startswith("the model changed: ") or event.reason.startswith("needs"), event
    assert len(leap._driver.engine.weights.history) == 1
    before = leap.report()["attempts"]
    loop.run(16, leap, start=16)
    assert leap.disabled is None
    assert leap.report()["attempts"] > before


@pytest.mark.failure(13)
def test_a_change_is_told_where_a_prediction_is_tried_at_once_too() -> None:
    """Adam's needs one snapshot, so the checkpoint that begins anew tries one; its verdict does not hide the change."""
    loop = make("mlp")
    leap = loop.leap(mode="live", policy="fixed", predictor="adam", horizon=3, criterion="never")
    loop.run(12, leap)
    loop.model.body[0].weight.requires_grad_(False)
    [event] = loop.run(4, leap, start=12)
    assert event.status == "rejected"
    told = "the model changed: parameter body.0.weight no longer moves; the history begins anew; "
    assert event.reason.startswith(told)


@pytest.mark.failure(13)
def test_a_model_without_anything_left_to_train_switches_leaping_off_in_one_sentence() -> None:
    loop = make("mlp")
    leap = loop.leap(mode="live", **ALWAYS, criterion="never")
    loop.run(12, leap)
    loop.model.requires_grad_(False)
    for _ in range(8):  # nothing is trained, but the user's loop goes on
        loop.optimizer.step()
        leap.step()
    assert leap.disabled == "no trainable parameter of Mlp is left: set requires_grad or widen the filter"
