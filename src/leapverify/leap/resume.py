"""The engine's state as a checkpoint holds it, and back: all of it is looked at before any of it is taken up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from leapverify.leap.beside_state import beside_state, restore_beside, restore_snapshots
from leapverify.leap.engine import Engine

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the states that are saved and taken up."""

_COUNTS = ("real", "leapt", "attempts", "accepted", "since_leap", "since_checkpoint")
_PARTS: dict[str, type] = {
    "counts": Mapping,
    "names": list,
    "steps": list,
    "snapshots": list,
    "observer": Mapping,
    "ledger": Mapping,
    "alerts": Mapping,
}
_OPTIONAL: dict[str, type] = {
    "beside": Mapping,
    "annealing": Mapping,
    "policy": Mapping,
    "fresh": Mapping,
    "waiting": list,
}


class _Part(Protocol):
    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> None: ...


def engine_state(engine: Engine) -> dict[str, Any]:
    """Counts, snapshots, the last fingerprint, averages, and what policy, ledger, alerts and held-out data remember."""
    history, trial = engine.trajectory.history, engine.trial
    return {
        "counts": {name: getattr(engine, name) for name in _COUNTS},
        "names": list(engine.trajectory.parameters),
        "steps": list(history.steps),
        "snapshots": [[each.clone() for each in snapshot.tensors] for snapshot in history],
        "beside": beside_state(history),
        "observer": engine.observer.state_dict(),
        "annealing": engine.annealing.state_dict() if engine.annealing else None,
        "policy": {"name": trial.policy.name, "state": trial.policy.state_dict()} if trial else None,
        "waiting": trial.waiting.state_dict() if trial else None,
        "fresh": engine.fresh.state_dict() if engine.fresh else None,
        "ledger": engine.ledger.state_dict(),
        "alerts": engine.alerts.state_dict(),
    }


def checked_state(state: Any) -> Mapping[str, Any] | None:
    """What a state of `LeapVerify` holds of its driver; None where it was saved by an engine that was off.

    Raises:
        ValueError: it is none, of another version, or incomplete.
    """
    if not isinstance(state, Mapping) or "version" not in state:
        raise ValueError(f"{_shown(state)} is no state of the engine: pass what state_dict() of LeapVerify gave")
    if state["version"] != VERSION:
        raise ValueError(f"the engine's state has version {state['version']!r}, not {VERSION}: save it anew")
    driver = state.get("driver")
    if driver is None:
        return None
    if not isinstance(driver, Mapping) or "disabled" not in driver:
        raise _incomplete("driver")
    for name in ("until_next", "pending"):
        if not isinstance(driver.get(name), int):
            raise _incomplete(name)
    _check_engine(driver.get("engine"))
    return driver


def restore_engine(engine: Engine, state: Mapping[str, Any]) -> None:
    """Go on from what `engine_state` gave; a part of it that does not fit this engine begins anew, and that is said.

    Raises:
        ValueError: it is no such state; the engine is then as it was.
    """
    _check_engine(state)
    engine.refresh()
    for name in _COUNTS:
        setattr(engine, name, state["counts"][name])
    engine.first = None
    engine.trajectory.history.reset()
    if engine.annealing is not None:
        engine.annealing.begin_anew(rebuild=False)
    if _same_weights(engine, state):
        _restore_weights(engine, state)
    else:
        logger.warning("leapverify: the saved history is of other parameters and begins anew")
    _take_up(engine.observer, state["observer"], "what was observed")
    _restore_trial(engine, state)
    _restore_heldout(engine, state["fresh"])
    _take_up(engine.ledger, state["ledger"], "the account of costs")
    _take_up(engine.alerts, state["alerts"], "what alerts were given")


def _restore_weights(engine: Engine, state: Mapping[str, Any]) -> None:
    history = engine.trajectory.history
    restore_snapshots(history, state["steps"], state["snapshots"])
    try:
        restore_beside(history, state.get("beside") or {})
    except Exception as error:
        restore_beside(history, {})
        _say("what is kept beside the snapshots", error)
    if engine.annealing is not None and state["annealing"] is not None:
        _take_up(engine.annealing, state["annealing"], "the averages for annealing")


def _restore_trial(engine: Engine, state: Mapping[str, Any]) -> None:
    trial = engine.trial
    if trial is None:
        return
    trial.waiting.clear()
    if _same_weights(engine, state) and state.get("waiting") is not None:
        try:
            trial.waiting.load_state_dict(state["waiting"], engine.trajectory.device)
        except Exception as error:
            _say("the shadow predictions that wait", error)
    saved = state["policy"]
    if saved is None:
        return
    if saved.get("name") == trial.policy.name:
        _take_up(trial.policy, saved.get("state"), f"what policy {trial.policy.name} has learned")
    else:
        logger.warning("leapverify: what policy %s has learned does not serve %s", saved.get("name"), trial.policy.name)


def _restore_heldout(engine: Engine, saved: Mapping[str, Any] | None) -> None:
    fresh = engine.fresh
    if fresh is None or saved is None:
        return

    def new_pass() -> None:
        fresh.load_state_dict({**fresh.state_dict(), "position": 0, "window": 0})

    _take_up(fresh, saved, "the pass over the held-out set", new_pass)


def _take_up(part: _Part, state: Any, what: str, undo: Callable[[], None] | None = None) -> None:
    """Give a part its state; if it does not fit, the part is what it was before, and one warning says so."""
    before = part.state_dict()
    try:
        part.load_state_dict(state)
    except Exception as error:
        _say(what, error)
        if undo is None:
            part.load_state_dict(before)
        else:
            undo()


def _say(what: str, error: Exception) -> None:
    text = " ".join(str(error).split())
    reason = text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
    logger.warning("leapverify: %s cannot be taken up from the saved state and begins anew: %s", what, reason)


def _check_engine(state: Any) -> None:
    """Refuse what cannot be a state of an engine, whatever engine it is for."""
    if not isinstance(state, Mapping):
        raise _incomplete("engine")
    for name, kind in _PARTS.items():
        if not isinstance(state.get(name), kind):
            raise _incomplete(name)
    for name, kind in _OPTIONAL.items():
        if state.get(name) is not None and not isinstance(state[name], kind):
            raise _incomplete(name)
    counts, steps = [state["counts"].get(name) for name in _COUNTS], state["steps"]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise _incomplete("counts")
    # Steps have to increase, and be as many as the snapshots.
    if not all(isinstance(step, int) for step in steps) or sorted(set(steps)) != steps:
        raise _incomplete("steps")
    lists = all(isinstance(each, list) and all(isinstance(t, Tensor) for t in each) for each in state["snapshots"])
    if not lists or len(state["snapshots"]) != len(steps):
        raise _incomplete("snapshots")


def _incomplete(name: str) -> ValueError:
    return ValueError(f"the engine's state has no proper {name!r}: pass what state_dict() of LeapVerify gave")


def _shown(value: Any) -> str:
    return f"a {type(value).__name__}{' without a version' if isinstance(value, Mapping) else ''}"


def _same_weights(engine: Engine, state: Mapping[str, Any]) -> bool:
    if list(engine.trajectory.parameters) != list(state["names"]):
        return False
    shapes = [tuple(each.shape) for each in engine.trajectory.tensors]
    return all([tuple(each.shape) for each in tensors] == shapes for tensors in state["snapshots"])
