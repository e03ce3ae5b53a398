"""The memory plan of a study on this machine: worked out, said and kept before anything is allocated."""

from __future__ import annotations

from pathlib import Path

from leapverify.storage import write_text
from leapverify.study.config import ConfigError, StudyConfig
from leapverify.study.environment import memory_bytes
from leapverify.study.executor.world import present
from leapverify.study.machine import machine
from leapverify.study.memory import MemoryPlan, Room, memory_plan
from leapverify.study.memory_sizes import model_shapes
from leapverify.study.progress import Progress, Watcher
from leapverify.study.settings import effective
from leapverify.train.tokenizers import load_tokenizer


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
