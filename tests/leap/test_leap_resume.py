"""Stop and resume at any checkpoint: weights, decisions and counts are those of the uninterrupted run."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from leap_loops import Loop, fingerprint_of, make

KINDS: dict[str, dict[str, Any]] = {
    "fixed": {"policy": "fixed", "predictor": "linear", "horizon": 3, "criterion": "always"},
    "adam, reset": {"policy": "fixed", "predictor": "adam", "horizon": 2, "criterion": "always", "moments": "reset"},
    "line-search": {"policy": "line-search"},
    "auto": {"policy": "auto", "interval": 6},
    "monitor": {"mode": "monitor", "anneal": True},
    "bfloat16": {"policy": "fixed", "predictor": "linear", "horizon": 3, "history_dtype": torch.bfloat16},
}


def _told(events: list[Any]) -> list[tuple[Any, ...]]:
    return [
        (e.step, e.effective_step, e.status, e.predictor, e.horizon, e.gain, e.similarity, e.regime, e.annealed_loss)
        for e in events
    ]


def _saved(loop: Loop, leap: Any) -> dict[str, Any]:
    kept = io.BytesIO()
    state = {
        "model": loop.model.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "scheduler": loop.scheduler.state_dict(),
        "leap": leap.state_dict(),
        "rng": torch.get_rng_state(),
    }
    torch.save(state, kept)
    kept.seek(0)
    return torch.load(kept, weights_only=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [7, 12, 18])
def test_a_resumed_run_is_the_uninterrupted_one(kind: str, stop: int) -> None:
    whole = make("gpt2")
    leap = whole.leap(**KINDS[kind])
    events = whole.run(36, leap)
    wanted = fingerprint_of(whole)

    first = make("gpt2")
    early = first.leap(**KINDS[kind])
    told = _told(first.run(stop, early))
    state = _saved(first, early)

    second = make("gpt2", seed=5)
    second.model.load_state_dict(state["model"])
    second.optimizer.load_state_dict(state["optimizer"])
    second.scheduler.load_state_dict(state["scheduler"])
    later = second.leap(**KINDS[kind])
    later.load_state_dict(state["leap"])
    make("gpt2")
    torch.set_rng_state(state["rng"])
    told += _told(second.run(36 - stop, later, start=stop))

    assert told == _told(events)
    assert (later.real_step, later.leapt) == (leap.real_step, leap.leapt)
    assert fingerprint_of(second) == wanted
    assert later.report()["tokens"] == leap.report()["tokens"]


def test_a_state_of_other_parameters_begins_a_new_history(caplog: pytest.LogCaptureFixture) -> None:
    loop = make("mlp")
    leap = loop.leap(mode="monitor")
    loop.run(12, leap)
    other = make("vision")
    engine = other.leap(mode="monitor")
    engine.load_state_dict(leap.state_dict())
    assert len(engine._driver.engine.trajectory.history) == 0
    assert "of other parameters" in caplog.text


def test_a_state_of_another_version_is_refused() -> None:
    leap = make("mlp").leap(mode="monitor")
    with pytest.raises(ValueError, match="version 9, not 1"):
        leap.load_state_dict({"version": 9})


def test_an_engine_that_switched_itself_off_stays_off() -> None:
    loop = make("mlp")
    leap = loop.leap(mode="monitor")
    loop.run(4, leap)
    state = leap.state_dict()
    state["driver"]["disabled"] = "it failed"
    again = make("mlp").leap(mode="monitor")
    again.load_state_dict(state)
    assert again.disabled == "it failed"
