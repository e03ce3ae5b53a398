"""What is raced: five tasks, from a language model to a problem on which nothing can be gained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from leapverify.race.config import RaceConfig
from leapverify.race.tasks.convex import convex_task
from leapverify.race.tasks.noise import noise_task
from leapverify.race.tasks.task import Material, Task
from leapverify.race.tasks.text import (
    FINETUNE_SHARES,
    PRETRAIN_SHARES,
    Base,
    Reader,
    finetune_task,
    lora_task,
    pretrain_task,
)
from leapverify.runs.environment import resolve_device

__all__ = ["Material", "Task", "build_tasks"]

ONE_OPTIMIZER = ("convex", "noise")
"""Problems made to show one thing: one optimizer shows it, the first that is configured."""


def build_tasks(config: RaceConfig) -> dict[str, Task]:
    """The configured tasks by name, each with those of its optimizers that are configured; nothing is read yet.

    Raises:
        ValueError: a task is left without an optimizer, or the device is not there.
    """
    device = resolve_device(config.device)
    source = Reader(config.text, config.text.source, PRETRAIN_SHARES, device)
    other = Reader(config.text, config.data, FINETUNE_SHARES, device)
    base = Base(source)
    makers: Mapping[str, Callable[[], Task]] = {
        "pretrain": lambda: pretrain_task(config.pretrain, source),
        "finetune": lambda: finetune_task(config.finetune, other, base),
        "lora": lambda: lora_task(config.lora, other, base),
        "convex": lambda: convex_task(config.convex, device),
        "noise": lambda: noise_task(config.noise, device),
    }
    return {name: _with(makers[name](), config) for name in config.tasks}


def _with(task: Task, config: RaceConfig) -> Task:
    optimizers = config.optimizers
    chosen = tuple(name for name in task.optimizers if name in optimizers)
    if task.name in ONE_OPTIMIZER:
        chosen = chosen[:1]
    if not chosen:
        raise ValueError(
            f"task {task.name} is run with {' or '.join(task.optimizers)}, the race with {', '.join(optimizers)}: "
            f"add one of its optimizers or leave the task out"
        )
    task = replace(task, optimizers=chosen, raced=config.rates)
    if not any(map(task.rates_of, chosen)):
        raise ValueError(
            f"task {task.name} with {' and '.join(chosen)} is not raced at {' or '.join(config.rates)} rates: add "
            f"{' or '.join(rate for rate in task.rates if rate not in config.rates)} to rates, or leave the task out"
        )
    return task
