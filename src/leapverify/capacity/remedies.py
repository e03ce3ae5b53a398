"""What makes a study fit that does not: settings in the order in which one would rather give something up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leapverify.capacity.activations import ModelShapes
from leapverify.capacity.memory import GB, MemoryItem, Place, Room, over, planned
from leapverify.config.overrides import flat, with_settings
from leapverify.config.resolved import Resolved

NAMES: Mapping[Place, str] = {"device": "GPU memory", "host": "host memory"}
FEWEST_SEQUENCES = 4
"""Sequences of a forward pass below which nothing is gained any more."""


def problem_of(config: Resolved, shapes: ModelShapes, room: Room, parts: Sequence[MemoryItem]) -> str | None:
    """Why parts do not fit and what would help, in one sentence; None if they fit."""
    short = over(parts, room)
    if not short:
        return None
    lacking = " and ".join(
        f"{peak / GB:.1f} GB of {NAMES[place]} where {room.of(place) / GB:.1f} are to be had"
        for place, peak in short.items()
    )
    return f"{config.preset} needs {lacking}: {_remedy(config, shapes, room)}"


def _remedy(config: Resolved, shapes: ModelShapes, room: Room) -> str:
    """The fewest settings of the list, taken in order, with which it fits."""
    tried: dict[str, Any] = {}
    for changes in _remedies(config, room):
        tried |= changes
        if _fits(config, tried, shapes, room):
            for key in list(tried):
                fewer = {name: value for name, value in tried.items() if name != key}
                tried = fewer if _fits(config, fewer, shapes, room) else tried
            return "set " + ", ".join(f"{key}={_typed(value)}" for key, value in tried.items())
    return "no setting makes it fit, take a smaller model or a larger machine"


def _remedies(config: Resolved, room: Room) -> Iterator[dict[str, Any]]:
    present = flat(config.settings.model_dump())
    sequences = min(config.verify.batch_sequences, FEWEST_SEQUENCES)
    wanted: list[dict[str, Any]] = [
        {"sweep.ring": "auto"},
        {"sweep.ring": "host"},
        {"training.weights": "bfloat16", "sweep.history": "auto"},
        {"verify.batch_sequences": sequences},
        {"cascade.kinds": ["chained"]},
        {"cascade.kinds": []},
        {"observe.lyapunov": False},
    ]
    for changes in wanted[2 if room.device_bytes is None else 0 :]:
        new = {key: value for key, value in changes.items() if not _same(present[key], value)}
        if new:
            yield new


def _same(present: Any, value: Any) -> bool:
    return list(present) == value if isinstance(value, list) else present == value


def _fits(config: Resolved, changes: Mapping[str, Any], shapes: ModelShapes, room: Room) -> bool:
    return not over(planned(Resolved.of(with_settings(config.settings, changes)), shapes, room)[0], room)


def _typed(value: Any) -> str:
    return f"[{','.join(value)}]" if isinstance(value, list) else str(value).lower()
