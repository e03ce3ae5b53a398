"""Stop and resume at any checkpoint: weights, decisions and counts are those of the uninterrupted run."""

from __future__ import annotations

import io
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from leap_loops import make
from leap_resume import KINDS, resumed, saved, told, whole
from leapverify.leap import shadow
from leapverify.leap.anneal.averages import AnnealMemory
from leapverify.leap.shadow import KEPT, PendingPrediction, PendingPredictions
from marks import slow


@pytest.mark.failure(5)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stops", [[7], slow([12]), slow([18]), [1, 2, 13]])
def test_a_resumed_run_is_the_uninterrupted_one(kind: str, stops: list[int]) -> None:
    wanted, found = whole(kind), resumed(kind, stops)
    assert found.told == wanted.told
    assert ("actual" in wanted.statuses) == (kind == "shadow")
    assert found.counts == wanted.counts
    assert found.fingerprint == wanted.fingerprint
    assert found.tokens == wanted.tokens


@pytest.mark.failure(5, 13)
def test_a_state_of_other_parameters_begins_a_new_history(caplog: pytest.LogCaptureFixture) -> None:
    loop = make("mlp")
    leap = loop.leap(mode="monitor")
    loop.run(12, leap)
    other = make("vision")
    engine = other.leap(mode="monitor")
    engine.load_state_dict(leap.state_dict())
    assert len(engine._driver.engine.weights.history) == 0
    assert "of other parameters" in caplog.text


def test_a_state_of_another_version_is_refused() -> None:
    leap = make("mlp").leap(mode="monitor")
    with pytest.raises(ValueError, match="version 9, not 1"):
        leap.load_state_dict({"version": 9})


@pytest.mark.failure(5)
def test_an_engine_that_switched_itself_off_stays_off() -> None:
    loop = make("mlp")
    leap = loop.leap(mode="monitor")
    loop.run(4, leap)
    state = leap.state_dict()
    state["driver"]["disabled"] = "it failed"
    del state["sum"]
    again = make("mlp").leap(mode="monitor")
    again.load_state_dict(state)
    assert again.disabled == "it failed"


FIXED: dict[str, Any] = {"policy": "fixed", "predictor": "linear", "horizon": 3, "criterion": "never", "anneal": True}


def _state(steps: int = 12, **options: Any) -> dict[str, Any]:
    loop = make("mlp")
    leap = loop.leap(**{**FIXED, **options})
    loop.run(steps, leap)
    return saved(loop, leap)["leap"]


def _broken(change: Any) -> dict[str, Any]:
    state = _state()
    change(state["driver"])
    return state


WRONG: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "a dict without a version is no state of the engine: pass what state_dict"),
    "a list": ([], "a list is no state of the engine"),
    "a model's": (OrderedDict(weight=torch.ones(2)), "a OrderedDict without a version is no state"),
    "version": ({"version": 9}, "version 9, not 1: save it anew"),
    "no driver": ({"version": 1, "driver": {}}, "the engine's state has no proper 'driver': pass what"),
    "no engine": ({"version": 1, "driver": {"disabled": None, "until_next": 1, "pending": 0}}, "no proper 'engine'"),
}
CHANGES: dict[str, Any] = {
    "until_next": lambda driver: driver.pop("until_next"),
    "counts": lambda driver: driver["engine"]["counts"].pop("leapt"),
    "steps": lambda driver: driver["engine"]["steps"].reverse(),
    "snapshots": lambda driver: driver["engine"]["snapshots"].pop(),
    "ledger": lambda driver: driver["engine"].update(ledger=None),
    "waiting": lambda driver: driver["engine"].update(waiting={}),
}


@pytest.mark.failure(5)
@pytest.mark.parametrize("case", [*WRONG, *CHANGES])
def test_what_is_no_state_is_refused_and_changes_nothing(case: str) -> None:
    state, message = WRONG[case] if case in WRONG else (_broken(CHANGES[case]), f"no proper {case!r}")
    runs = []
    for refused in (True, False):
        loop = make("mlp")
        leap = loop.leap(**FIXED)
        events = loop.run(10, leap)
        if refused:
            with pytest.raises(ValueError, match=message):
                leap.load_state_dict(state)
        runs.append(told([*events, *loop.run(10, leap, start=10)]))
    assert runs[0] == runs[1]


def test_averages_of_another_memory_begin_anew_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    state = _state()
    leap = make("mlp").leap(**{**FIXED, "anneal": AnnealMemory(every=10)})
    leap.load_state_dict(state)
    assert leap.real_step == 12
    assert len(leap._driver.engine.weights.history) > 0
    assert leap._driver.engine.annealing.store.held == 0
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith("leapverify: the averages for annealing cannot be taken up from the saved state")


def test_a_shorter_heldout_set_begins_a_new_pass(caplog: pytest.LogCaptureFixture) -> None:
    state = _state(60)
    draws, position = (state["driver"]["engine"]["fresh"][name] for name in ("draws", "position"))
    assert position > 8
    loop = make("mlp")
    leap = loop.leap(**FIXED, heldout=loop.heldout[:8])
    leap.load_state_dict(state)
    assert "the pass over the held-out set cannot be taken up" in caplog.text
    assert leap.report()["heldout_batches"] == draws
    loop.run(8, leap)
    assert leap.disabled is None


def test_another_policy_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    leap = make("mlp").leap(policy="line-search", anneal=True)
    leap.load_state_dict(_state())
    assert leap.real_step == 12
    assert "what policy fixed has learned does not serve line-search" in caplog.text


def test_a_policy_whose_state_does_not_fit_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    state = _state(policy="line-search", predictor=None, horizon=None)
    state["driver"]["engine"]["policy"]["state"] = {"failures": 3}
    del state["sum"]
    leap = make("mlp").leap(policy="line-search", anneal=True)
    before = leap._driver.engine.policy.state_dict()
    leap.load_state_dict(state)
    assert leap._driver.engine.policy.state_dict() == before
    assert "what policy line-search has learned cannot be taken up" in caplog.text


def _pending(due: int, *batches: Any) -> PendingPrediction:
    return PendingPrediction(due, due - 5, "linear", 5, 2.0, 1.9, batches)


@pytest.mark.failure(5)
def test_predictions_that_wait_are_due_at_their_step_or_after_it() -> None:
    waiting = PendingPredictions()
    for due in (8, 6, 12):
        waiting.add(_pending(due))
    assert waiting.next_due == 6
    assert waiting.due(5) == []
    assert [each.due for each in waiting.due(9)] == [8, 6]
    assert waiting.next_due == 12
    (last,) = waiting.due(14)
    assert last.reason(12) == "5 real steps after the prediction at step 7"
    assert last.reason(14) == "7 real steps after the prediction at step 7, which was for 5"
    for due in range(KEPT + 3):
        waiting.add(_pending(due))
    assert waiting.next_due == 3


@pytest.mark.failure(5)
def test_predictions_that_wait_are_saved_with_their_batches() -> None:
    whole = torch.arange(4096.0).reshape(64, 64)
    batch = OrderedDict(x=whole[:2], more={"y": (torch.arange(3), [1, "a", None, 2.5])})
    waiting, again = PendingPredictions(), PendingPredictions()
    waiting.add(_pending(9, batch, whole[2:4]))
    kept = io.BytesIO()
    torch.save(waiting.state_dict(), kept)
    assert len(kept.getvalue()) < whole.nbytes
    kept.seek(0)
    again.add(_pending(1))
    again.load_state_dict(torch.load(kept, weights_only=True), torch.device("cpu"))
    (found,) = again.due(9)
    assert (found.step, found.predictor, found.horizon, found.loss_now) == (4, "linear", 5, 2.0)
    assert type(found.batches[0]) is OrderedDict
    assert torch.equal(found.batches[0]["x"], whole[:2])
    assert torch.equal(found.batches[0]["more"]["y"][0], torch.arange(3))
    assert found.batches[0]["more"]["y"][1] == [1, "a", None, 2.5]
    assert torch.equal(found.batches[1], whole[2:4])


def test_accelerator_batches_go_where_the_weights_are_and_others_stay_on_the_host() -> None:
    waiting, again = PendingPredictions(), PendingPredictions()
    waiting.add(_pending(9, (torch.ones(2, device="meta"), torch.ones(3))))
    state = waiting.state_dict()
    assert state[0]["places"] == ["meta", "cpu"]
    state[0]["batches"] = ((torch.ones(2), torch.ones(3)),)  # as torch.load(map_location="cpu") gives it
    again.load_state_dict(state, torch.device("meta"))
    assert [each.device.type for each in again.due(9)[0].batches[0]] == ["meta", "cpu"]


def test_predictions_whose_batches_cannot_be_saved_are_left_out_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @dataclass
    class Batch:
        x: torch.Tensor

    monkeypatch.setattr(shadow, "SAVED_BYTES", 100)
    waiting = PendingPredictions()
    for due, batch in ((5, Batch(torch.ones(2))), (6, torch.ones(20)), (7, torch.ones(20)), (8, torch.ones(5))):
        waiting.add(_pending(due, batch))
    with caplog.at_level("INFO"):
        assert [each["due"] for each in waiting.state_dict()] == [6, 8]
        waiting.state_dict()
    assert caplog.text.count("are not saved") == 1
    assert [each.due for each in waiting.due(9)] == [5, 6, 7, 8]
