"""The plan of a study's memory: with its problem and remedy, in every precision, and as it is told to a user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leapverify.capacity.activations import ModelShapes, model_shapes
from leapverify.capacity.buffers import IN_FLIGHT
from leapverify.capacity.machine import machine
from leapverify.capacity.memory import MemoryPlan, Room, planned
from leapverify.capacity.remedies import problem_of
from leapverify.config.overrides import with_settings
from leapverify.config.resolved import Resolved
from leapverify.errors import ConfigError
from leapverify.io.storage import write_text
from leapverify.runs.environment import memory_bytes
from leapverify.runs.progress import Progress, Watcher
from leapverify.runs.world import present
from leapverify.train.tokenizers import load_tokenizer


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


def options(config: Resolved, shapes: ModelShapes, room: Room) -> list[Option]:
    """Every precision with every place of the ring, and which of them fit.

    Args:
        config: the study.
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
            changed = Resolved.of(with_settings(config.settings, changes))
            chosen = (weights, ring) == (config.training.weights, config.sweep.ring if len(places) > 1 else ring)
            plan = memory_plan(changed, shapes, room)
            found.append(Option(precision(changed, room), name, chosen, plan))
    return found


def precision(config: Resolved, room: Room) -> str:
    """Weights and compute in words."""
    if config.training.weights == "bfloat16":
        return "pure bf16"
    wanted = config.training.precision
    half = wanted == "bfloat16" or (wanted == "auto" and room.device_bytes is not None)
    return "float32, bf16 compute" if half else "float32"


def plan_of(config: Resolved, device: str, workers: int) -> MemoryPlan | None:
    """What each of so many seeds side by side will hold, and where.

    None where the system does not tell its memory, and on several ranks, for which no plan is worked out.

    Raises:
        ConfigError: it does not fit; the message says what would.
    """
    host = memory_bytes()
    if host is None or not present().alone:
        return None
    room = machine().room if device == "cuda" else Room.usable(None, host / workers)
    plan = memory_plan(config, model_shapes(config, load_tokenizer(config.data.tokenizer).vocab_size), room)
    if plan.problem is not None:
        raise ConfigError(plan.problem)
    return plan


def say_plan(plan: MemoryPlan | None, config: Resolved, out: Path, watcher: Watcher) -> None:
    """Write the plan into the run folder and say it, before anything is allocated."""
    if plan is None:
        return
    write_text(out / "memory.txt", "\n".join(plan.lines()) + "\n")
    # On a GPU memory is what decides: every part is said. On a CPU its peak is enough.
    lines = [plan.summary] if plan.room.device_bytes is None else plan.lines()
    for line in lines:
        watcher(Progress(config.seeds[0], 0, config.training.steps, "note", note=line))


def memory_plan(config: Resolved, shapes: ModelShapes, room: Room) -> MemoryPlan:
    """What one seed of a study will hold and where; the ring goes where `sweep.ring` says.

    Args:
        config: the study.
        shapes: the model's, from `model_shapes`.
        room: the memory that there is for tensors.
    """
    parts, places = planned(config, shapes, room)
    return MemoryPlan(parts, room, places, problem_of(config, shapes, room, parts), parts[-1].name == IN_FLIGHT)
