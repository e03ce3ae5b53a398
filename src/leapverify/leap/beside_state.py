"""What is kept beside a history's snapshots, as a checkpoint holds it, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leapverify.history import History, Snapshot
from leapverify.milestones import Milestone
from leapverify.weights import Tensors


def beside_state(history: History) -> dict[str, Any]:
    """Copies of the last steps, the running averages and the early states; None for what is not kept."""
    recent, averages, milestones = history.recent, history.averages, history.milestones
    return {
        "recent": None if recent is None else _states(recent),
        "averages": None if averages is None else {key: each.clone() for key, each in averages.state_dict().items()},
        "milestones": None if milestones is None else _states(milestones),
    }


def restore_snapshots(history: History, steps: Sequence[int], snapshots: Sequence[Tensors]) -> None:
    """Push snapshots into an empty history, and into nothing that it feeds: that has seen more than these."""
    averages, milestones = history.averages, history.milestones
    history.averages = history.milestones = None
    try:
        for step, tensors in zip(steps, snapshots, strict=True):
            history.push(step, tensors)
    finally:
        history.averages, history.milestones = averages, milestones


def restore_beside(history: History, state: Mapping[str, Any]) -> None:
    """Put back what `beside_state` gave; what is missing there, or is no longer kept, begins anew.

    Args:
        history: that holds its snapshots again.
        state: as saved, wherever it was loaded to.
    """
    for each in (history.recent, history.averages, history.milestones):
        if each is not None:
            each.reset()
    recent, averages, milestones = (state.get(name) for name in ("recent", "averages", "milestones"))
    if history.recent is not None and recent is not None:
        restore_snapshots(history.recent, recent["steps"], recent["states"])
    like = history[-1].tensors if len(history) else None
    if history.averages is not None and averages is not None:
        history.averages.load_state_dict(averages, like)
    if history.milestones is not None and milestones is not None:
        for step, tensors in zip(milestones["steps"], milestones["states"], strict=True):
            history.milestones.push(step, tensors, like)


def _states(found: Iterable[Snapshot | Milestone]) -> dict[str, Any]:
    every = list(found)
    return {
        "steps": [each.step for each in every],
        "states": [[tensor.clone() for tensor in each.tensors] for each in every],
    }
