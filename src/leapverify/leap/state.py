"""The engine's state as a checkpoint holds it, and back: all of it is looked at before any of it is taken up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from leapverify.core.batch_tree import mapped
from leapverify.core.ranks import Ranks
from leapverify.core.state_hash import sum_of
from leapverify.leap.commit import Trial
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
    history, trial = mapped(engine.trajectory.history.state_dict(), Tensor.clone), engine.trial
    return {
        "counts": {name: getattr(engine, name) for name in _COUNTS},
        "names": list(engine.trajectory.parameters),
        "layout": engine.trajectory.layout,
        "share": [engine.ranks.share, engine.ranks.shares],
        "steps": history.pop("steps"),
        "snapshots": history.pop("states"),
        "beside": history,
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
        ValueError: it is none, of another version, incomplete, or altered since it was saved.
    """
    if not isinstance(state, Mapping) or "version" not in state:
        raise ValueError(f"{_shown(state)} is no state of the engine: pass what state_dict() of LeapVerify gave")
    if state["version"] != VERSION:
        raise ValueError(f"the engine's state has version {state['version']!r:.100}, not {VERSION}: save it anew")
    driver = state.get("driver")
    if driver is None:
        return None
    if not isinstance(driver, Mapping) or "disabled" not in driver:
        raise _incomplete("driver")
    for name in ("until_next", "pending"):
        if not isinstance(driver.get(name), int):
            raise _incomplete(name)
    _check_engine(driver.get("engine"))
    # Earlier versions saved none.
    if state.get("sum") is not None and state["sum"] != sum_of(driver):
        raise ValueError(
            "the engine's state is damaged: it is not what state_dict() of LeapVerify gave; go on from an earlier "
            "checkpoint, or without it"
        )
    return driver


def agreed_state(state: Any, ranks: Ranks) -> Mapping[str, Any] | None:
    """What `checked_state` gives, if every rank has brought a state of the same moment.

    Raises:
        ValueError: one of them is none; or they are of different moments. It is raised on every rank.
    """
    driver: Mapping[str, Any] | None = None
    mistake: Exception | None = None
    try:
        driver = checked_state(state)
    except Exception as error:  # of whatever class: the others wait
        mistake = error
    moment = None if driver is None else (driver["engine"]["counts"], driver["until_next"], driver["pending"])
    every = ranks.all_gather("states", (None if mistake is None else str(mistake), moment))
    if mistake is not None:
        raise mistake
    for rank, (text, other) in enumerate(every):
        if text is not None:
            raise ValueError(f"rank {rank}: {text}")
        if other != every[0][1]:
            raise ValueError(
                f"the states of rank 0 and rank {rank} are of different moments ({every[0][1]} and {other}): load on "
                "every rank what was saved at one step"
            )
    return driver


def restore_engine(engine: Engine, state: Mapping[str, Any]) -> None:
    """Go on from what `engine_state` gave; a part of it that does not fit this engine begins anew, and that is said.

    On several ranks a part begins anew on all of them or on none.

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
    ranks = engine.ranks
    fits = not ranks.any("histories", not _same_weights(engine, state))
    if fits:
        _restore_weights(engine, state)
    elif ranks.rank == 0:
        logger.warning(
            "leapverify: the saved history is of other parameters, or of other parts of them, and begins anew"
        )
    _take_up(engine.observer, state["observer"], "what was observed", ranks)
    _restore_trial(engine, state, fits)
    _restore_heldout(engine, state["fresh"])
    _take_up(engine.ledger, state["ledger"], "the account of costs", ranks)
    engine.ledger.agree()
    _take_up(engine.alerts, state["alerts"], "what alerts were given", ranks)


def _restore_weights(engine: Engine, state: Mapping[str, Any]) -> None:
    history = engine.trajectory.history
    history.load_state_dict({"steps": state["steps"], "states": state["snapshots"]})
    ranks, what = engine.ranks, "what is kept beside the snapshots"
    if not _done(lambda: history.load_state_dict(state.get("beside") or {}), what, ranks):
        history.load_state_dict({})
    if engine.annealing is not None and state["annealing"] is not None:
        _take_up(engine.annealing, state["annealing"], "the averages for annealing", ranks)


def _restore_trial(engine: Engine, state: Mapping[str, Any], fits: bool) -> None:
    trial = engine.trial
    if trial is None:
        return
    trial.waiting.clear()
    # What waits holds the batches of the share that saved it; earlier versions knew of one share only.
    share = [engine.ranks.share, engine.ranks.shares]
    if not engine.ranks.any("shares", list(state.get("share") or (0, 1)) != share):
        _restore_waiting(engine, trial, state, fits)
    saved = state["policy"]
    if saved is None:
        return
    if saved.get("name") == trial.policy.name:
        _take_up(trial.policy, saved.get("state"), f"what policy {trial.policy.name} has learned", engine.ranks)
    else:
        logger.warning("leapverify: what policy %s has learned does not serve %s", saved.get("name"), trial.policy.name)


def _restore_waiting(engine: Engine, trial: Trial, state: Mapping[str, Any], fits: bool) -> None:
    if fits and state.get("waiting") is not None:
        waiting, device = state["waiting"], engine.trajectory.device
        loaded = _done(
            lambda: trial.waiting.load_state_dict(waiting, device), "the shadow predictions that wait", engine.ranks
        )
        # What a rank could not save of its own batches is waited for by none.
        dues = engine.ranks.all_gather("what waits", [(each.due, each.predictor) for each in trial.waiting])
        if not loaded or any(each != dues[0] for each in dues):
            trial.waiting.clear()


def _restore_heldout(engine: Engine, saved: Mapping[str, Any] | None) -> None:
    fresh = engine.fresh
    if fresh is None or saved is None:
        return

    def new_pass() -> None:
        fresh.load_state_dict({**fresh.state_dict(), "position": 0, "window": 0})

    _take_up(fresh, saved, "the pass over the held-out set", engine.ranks, new_pass)


def _take_up(part: _Part, state: Any, what: str, ranks: Ranks, undo: Callable[[], None] | None = None) -> None:
    """Give a part its state; if it does not fit, the part is what it was before, and one warning says so."""
    before = part.state_dict()
    if _done(lambda: part.load_state_dict(state), what, ranks):
        return
    if undo is None:
        part.load_state_dict(before)
    else:
        undo()


def _done(load: Callable[[], None], what: str, ranks: Ranks) -> bool:
    """Whether a part could be loaded on every rank; the one on which it could not says why."""
    fine = True
    try:
        load()
    except Exception as error:
        _say(what, error)
        fine = False
    return not ranks.any(what, not fine)


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
    if list(engine.trajectory.parameters) != list(state["names"]) or engine.trajectory.layout != state.get("layout"):
        return False
    shapes = [tuple(each.shape) for each in engine.trajectory.tensors]
    return all([tuple(each.shape) for each in tensors] == shapes for tensors in state["snapshots"])
