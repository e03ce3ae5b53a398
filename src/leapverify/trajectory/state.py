"""What a history keeps beside its snapshots, as named tensors and plain data for a file, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from leapverify.io.yaml_file import as_written
from leapverify.trajectory.history import History

_TENSOR = "tensor"
"""Key of what stands in the place of a tensor: its name in the file."""


def packed(history: History, interval: int) -> tuple[dict[str, Tensor], Any] | None:
    """What neither the snapshots nor the steps of the next interval would bring back; None if there is nothing.

    Args:
        history: the snapshot of its checkpoint has been pushed.
        interval: steps from one checkpoint to the next.

    Returns:
        The history's own tensors by name, and plain data that say where each belongs.
    """
    if not _keeps(history, interval):
        return None
    state = history.state_dict()
    kept = {
        "averages": state["averages"],
        "milestones": _pairs(state["milestones"]),
        "recent": _pairs(state["recent"] if _spans(history, interval) else None),
    }
    tensors: dict[str, Tensor] = {}
    return tensors, _without_tensors(kept, "state", tensors)


def unpack(read: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]], history: History, interval: int) -> None:
    """Put back what `packed` gave into a history that holds its snapshots again.

    Args:
        read: gives the tensors, and the plain data under `state`; called only where something is to be put back.
        history, interval: as for `packed`.

    Raises:
        Damaged: the file is missing, incomplete or altered.
    """
    history.load_state_dict({})
    if not _keeps(history, interval):
        return
    tensors, about = read()
    with as_written("what a history remembered", "delete the folder remembered of that seed"):
        kept = _with_tensors(about["state"], tensors)
        if history.averages is not None and kept["averages"] is None:
            raise ValueError("there are no averages")
        states = {name: _lists(kept[name]) for name in ("milestones", "recent")}
        history.load_state_dict({"averages": kept["averages"], **states})


def _keeps(history: History, interval: int) -> bool:
    return history.averages is not None or history.milestones is not None or _spans(history, interval)


def _spans(history: History, interval: int) -> bool:
    """Whether single steps of one interval are still read at the end of the next."""
    return history.recent is not None and history.recent.length > interval


def _pairs(state: Mapping[str, Any] | None) -> list[list[Any]]:
    """Step and tensors of each snapshot."""
    return [] if state is None else [list(pair) for pair in zip(state["steps"], state["states"], strict=True)]


def _lists(pairs: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return {"steps": [step for step, _ in pairs], "states": [tensors for _, tensors in pairs]}


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A tree as plain data; its tensors go into `tensors`, by where they stood."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {key: _without_tensors(each, f"{name}.{key}", tensors) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_tensors(each, f"{name}.{index}", tensors) for index, each in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {key: _with_tensors(each, tensors) for key, each in value.items()}
    return [_with_tensors(each, tensors) for each in value] if isinstance(value, list) else value
