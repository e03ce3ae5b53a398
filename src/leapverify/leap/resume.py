"""The engine's state as a checkpoint holds it, and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from leapverify.leap.engine import Engine

logger = logging.getLogger(__name__)

_COUNTS = ("real", "leapt", "attempts", "accepted", "since_leap", "since_checkpoint")


def engine_state(engine: Engine) -> dict[str, Any]:
    """Counts, snapshots, the last fingerprint, averages, and what policy, ledger, alerts and held-out data remember."""
    history, trial = engine.trajectory.history, engine.trial
    return {
        "counts": {name: getattr(engine, name) for name in _COUNTS},
        "names": list(engine.trajectory.parameters),
        "steps": list(history.steps),
        "snapshots": [[each.clone() for each in snapshot.tensors] for snapshot in history],
        "observer": engine.observer.state_dict(),
        "annealing": engine.annealing.state_dict() if engine.annealing else None,
        "policy": {"name": trial.policy.name, "state": trial.policy.state_dict()} if trial else None,
        "fresh": engine.fresh.state_dict() if engine.fresh else None,
        "ledger": engine.ledger.state_dict(),
        "alerts": engine.alerts.state_dict(),
    }


def restore_engine(engine: Engine, state: Mapping[str, Any]) -> None:
    """Go on from what `engine_state` gave; what belongs to other parameters or another policy is left out, and said."""
    for name in _COUNTS:
        setattr(engine, name, state["counts"][name])
    engine.trajectory.refresh()
    engine.trajectory.history.reset()
    if _same_weights(engine, state):
        for step, tensors in zip(state["steps"], state["snapshots"], strict=True):
            engine.trajectory.history.push(step, tensors)
        if engine.annealing is not None and state["annealing"] is not None:
            engine.annealing.load_state_dict(state["annealing"])
    else:
        logger.warning("leapverify: the saved history is of other parameters and begins anew")
    engine.observer.load_state_dict(state["observer"])
    if engine.trial is not None and state["policy"] is not None:
        _restore_policy(engine, state["policy"])
    if engine.fresh is not None and state["fresh"] is not None:
        engine.fresh.load_state_dict(state["fresh"])
    engine.ledger.load_state_dict(state["ledger"])
    engine.alerts.load_state_dict(state["alerts"])


def _restore_policy(engine: Engine, saved: Mapping[str, Any]) -> None:
    assert engine.trial is not None
    policy = engine.trial.policy
    if saved["name"] == policy.name:
        policy.load_state_dict(saved["state"])
    else:
        logger.warning("leapverify: what policy %s has learned does not serve %s", saved["name"], policy.name)


def _same_weights(engine: Engine, state: Mapping[str, Any]) -> bool:
    if list(engine.trajectory.parameters) != list(state["names"]):
        return False
    shapes = [tuple(each.shape) for each in engine.trajectory.tensors]
    return all([tuple(each.shape) for each in tensors] == shapes for tensors in state["snapshots"])
