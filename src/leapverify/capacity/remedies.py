"""What makes a study fit that does not: settings in the order in which one would rather give something up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leapverify.capacity.activations import Shapes, model_shapes
from leapverify.capacity.machine import machine
from leapverify.capacity.memory import GB, MemoryItem, MemoryPlan, Place, Room, memory_plan, over, planned
from leapverify.config.overrides import flat, with_settings
from leapverify.config.resolved import effective
from leapverify.config.study import StudyConfig
from leapverify.errors import ConfigError
from leapverify.io.storage import write_text
from leapverify.runs.environment import memory_bytes
from leapverify.runs.progress import Progress, Watcher
from leapverify.runs.world import present
from leapverify.train.tokenizers import load_tokenizer

NAMES: Mapping[Place, str] = {"device": "GPU memory", "host": "host memory"}
FEWEST_SEQUENCES = 4
"""Sequences of a forward pass below which nothing is gained any more."""


@dataclass(frozen=True)
class Option:
    """One way of running a study."""

    precision: str
    """Of weights and compute."""
    ring: str
    """device, split or host; plain `memory` where there is no GPU."""
    chosen: bool
    """Whether it is what the configuration says."""
    plan: MemoryPlan


def options(config: StudyConfig, shapes: Shapes, room: Room) -> list[Option]:
    """Every precision with every place of the ring, and which of them fit.

    Args:
        config: the study, after `effective`.
        shapes: the model's.
        room: the memory that there is.
    """
    places = {"auto": "memory"}
    if room.device_bytes is not None:
        places = {"device": "device", "auto": "split", "host": "host"}
    found = []
    for weights in ("float32", "bfloat16"):
        rounding = config.training.rounding if weights == "bfloat16" else "nearest"
        for ring, name in places.items():
            changes = {"training.weights": weights, "training.rounding": rounding, "sweep.ring": ring}
            changed = with_settings(config, changes)
            chosen = (weights, ring) == (config.training.weights, config.sweep.ring if len(places) > 1 else ring)
            plan = memory_plan(changed, shapes, room)
            found.append(Option(precision(changed, room), name, chosen, plan))
    return found


def precision(config: StudyConfig, room: Room) -> str:
    """Weights and compute in words."""
    if config.training.weights == "bfloat16":
        return "pure bf16"
    wanted = config.training.precision
    half = wanted == "bfloat16" or (wanted == "auto" and room.device_bytes is not None)
    return "float32, bf16 compute" if half else "float32"


def problem_of(config: StudyConfig, shapes: Shapes, room: Room, parts: Sequence[MemoryItem]) -> str | None:
    """Why parts do not fit and what would help, in one sentence; None if they fit."""
    short = over(parts, room)
    if not short:
        return None
    lacking = " and ".join(
        f"{peak / GB:.1f} GB of {NAMES[place]} where {room.of(place) / GB:.1f} are to be had"
        for place, peak in short.items()
    )
    return f"{config.preset} needs {lacking}: {_remedy(config, shapes, room)}"


def _remedy(config: StudyConfig, shapes: Shapes, room: Room) -> str:
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


def _remedies(config: StudyConfig, room: Room) -> Iterator[dict[str, Any]]:
    present = flat(config.model_dump())
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


def _fits(config: StudyConfig, changes: Mapping[str, Any], shapes: Shapes, room: Room) -> bool:
    return not over(planned(with_settings(config, changes), shapes, room)[0], room)


def _typed(value: Any) -> str:
    return f"[{','.join(value)}]" if isinstance(value, list) else str(value).lower()


def plan_of(config: StudyConfig, device: str, workers: int) -> MemoryPlan | None:
    """What each of so many seeds side by side will hold, and where.

    None where the system does not tell its memory, and on several ranks, for which no plan is worked out.

    Raises:
        ConfigError: it does not fit; the message says what would.
    """
    host = memory_bytes()
    if host is None or not present().alone:
        return None
    room = machine().room if device == "cuda" else Room.usable(None, host / workers)
    config = effective(config)
    plan = memory_plan(config, model_shapes(config, load_tokenizer(config.data.tokenizer).vocab_size), room)
    if plan.problem is not None:
        raise ConfigError(plan.problem)
    return plan


def say_plan(plan: MemoryPlan | None, config: StudyConfig, out: Path, watcher: Watcher) -> None:
    """Write the plan into the run folder and say it, before anything is allocated."""
    if plan is None:
        return
    write_text(out / "memory.txt", "\n".join(plan.lines()) + "\n")
    # On a GPU memory is what decides: every part is said. On a CPU its peak is enough.
    lines = [plan.summary] if plan.room.device_bytes is None else plan.lines()
    for line in lines:
        watcher(Progress(config.seeds[0], 0, config.training.steps, "note", note=line))
