"""What is kept beside a history's snapshots, as a checkpoint holds it, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from leapverify.core.weights import Tensors
from leapverify.io.yaml_file import as_written
from leapverify.trajectory.history import History, Snapshot
from leapverify.trajectory.milestones import Milestone


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


_TENSOR = "tensor"
"""Key of what stands in the place of a tensor: its name in the file."""


def folder_of(seed: Path) -> Path:
    """Where a seed keeps these files."""
    return seed / "remembered"


def taken(history: History, interval: int) -> tuple[dict[str, Tensor], Any] | None:
    """What neither the snapshots nor the steps of the next interval would bring back; None if there is nothing.

    Args:
        history: remembers; the snapshot of its checkpoint has been pushed.
        interval: steps from one checkpoint to the next.

    Returns: the history's own tensors by name, and where each stands, as plain data.
    """
    if not _remembers(history, interval):
        return None
    milestones, recent = history.milestones, history.recent
    state = {
        "averages": None if history.averages is None else history.averages.state_dict(),
        "milestones": [] if milestones is None else [[at, milestones.nearest(at).tensors] for at in milestones.steps],
        "recent": [[each.step, each.tensors] for each in recent] if recent and _spans(history, interval) else [],
    }
    tensors: dict[str, Tensor] = {}
    apart = _taken_apart(state, "state", tensors)
    return tensors, apart


def load(read: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]], history: History, interval: int) -> None:
    """Have a history remember what it did at a checkpoint; its snapshots have been pushed again already.

    Args:
        read: gives the tensors that `taken` gave, and what was told with them, its plain data under `state`; called
            where there is anything to remember.
        history, interval: as for `taken`.

    Raises:
        Damaged: the file is missing, incomplete or altered.
    """
    for each in (history.recent, history.averages, history.milestones):
        if each is not None:
            each.reset()
    if not _remembers(history, interval):
        return
    tensors, about = read()
    with as_written("what a history remembered", "delete the folder remembered of that seed"):
        state = _put_together(about["state"], tensors)
        if history.averages is not None:
            history.averages.load_state_dict(state["averages"], like=history[-1].tensors)
        if history.milestones is not None:
            for at, kept in state["milestones"]:
                history.milestones.push(at, kept, like=history[-1].tensors)
        if history.recent is not None:
            for at, kept in state["recent"]:
                history.recent.push(at, kept)


def _remembers(history: History, interval: int) -> bool:
    return history.averages is not None or history.milestones is not None or _spans(history, interval)


def _spans(history: History, interval: int) -> bool:
    """Whether single steps of one interval are still asked for at the end of the next."""
    return history.recent is not None and history.recent.length > interval


def _taken_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A tree as plain data; its tensors go into `tensors`, by where they stood."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {str(key): _taken_apart(each, f"{name}.{key}", tensors) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_taken_apart(each, f"{name}.{index}", tensors) for index, each in enumerate(value)]
    return value


def _put_together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {key: _put_together(each, tensors) for key, each in value.items()}
    return [_put_together(each, tensors) for each in value] if isinstance(value, list) else value
