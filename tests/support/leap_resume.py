"""A live run that is stopped and resumed beside the one that goes through."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from leap_loops import Loop, fingerprint_of, make

LENGTH = 36
KINDS: dict[str, dict[str, Any]] = {
    "fixed": {"policy": "fixed", "predictor": "linear", "horizon": 3, "criterion": "always"},
    "adam, reset": {"policy": "fixed", "predictor": "adam", "horizon": 2, "criterion": "always", "moments": "reset"},
    "line-search": {"policy": "line-search"},
    "auto": {"policy": "auto", "interval": 6},
    "monitor": {"mode": "monitor", "anneal": True},
    "shadow": {"mode": "shadow", "policy": "fixed", "predictor": "linear", "horizon": 7, "interval": 3},
    "averages": {"policy": "fixed", "predictor": "ema-posthoc", "horizon": 3},
    "last steps": {"policy": "fixed", "predictor": "plp", "horizon": 3, "criterion": "always"},
    "gradients": {"policy": "fixed", "predictor": "subspace", "horizon": 3, "criterion": "always"},
    "bfloat16": {"policy": "fixed", "predictor": "linear", "horizon": 3, "history_dtype": torch.bfloat16},
}


@dataclass
class Run:
    """How a run ended."""

    told: list[tuple[Any, ...]]
    """What its events say."""
    statuses: list[str] = field(compare=False)
    """Of the events of the last engine."""
    counts: tuple[int, int]
    """Real steps, and those leapt."""
    fingerprint: str
    tokens: dict[str, float]
    """What every part has cost."""


@cache
def whole(kind: str, name: str = "gpt2") -> Run:
    """The run that goes through."""
    loop = make(name)
    leap = loop.leap(**KINDS[kind])
    return _ended(loop, leap, told(loop.run(LENGTH, leap)))


def resumed(kind: str, stops: list[int], name: str = "gpt2") -> Run:
    """The run that is stopped after these steps, each time saved, and gone on with in a new process' place."""
    loop, begin, events = make(name), 0, []
    leap = loop.leap(**KINDS[kind])
    for stop in stops:
        events += told(loop.run(stop - begin, leap, start=begin))
        state, begin = saved(loop, leap), stop
        loop = make(name, seed=5)
        loop.model.load_state_dict(state["model"])
        loop.optimizer.load_state_dict(state["optimizer"])
        loop.scheduler.load_state_dict(state["scheduler"])
        if loop.scaler:
            loop.scaler.load_state_dict(state["scaler"])
        leap = loop.leap(**KINDS[kind])
        leap.load_state_dict(state["leap"])
        make(name)  # seeds the streams that are not saved
        torch.set_rng_state(state["rng"])
    events += told(loop.run(LENGTH - begin, leap, start=begin))
    return _ended(loop, leap, events)


def _ended(loop: Loop, leap: Any, events: list[tuple[Any, ...]]) -> Run:
    statuses = [event.status for event in leap.events]
    return Run(events, statuses, (leap.real_step, leap.leapt), fingerprint_of(loop), leap.report()["tokens"])


def told(events: list[Any]) -> list[tuple[Any, ...]]:
    return [
        (e.step, e.effective_step, e.status, e.predictor, e.horizon, e.gain, e.similarity, e.regime, e.annealed_loss)
        for e in events
    ]


def saved(loop: Loop, leap: Any) -> dict[str, Any]:
    kept = io.BytesIO()
    state = {
        "model": loop.model.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "scheduler": loop.scheduler.state_dict(),
        "scaler": loop.scaler.state_dict() if loop.scaler else None,
        "leap": leap.state_dict(),
        "rng": torch.get_rng_state(),
    }
    torch.save(state, kept)
    kept.seek(0)
    return torch.load(kept, weights_only=True)
