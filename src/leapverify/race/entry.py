"""What workers call: plain data in, and the work's own types inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leapverify.analysis.race.arms import Case
from leapverify.race.config import RaceConfig
from leapverify.race.plan import Choices, TunedChoice
from leapverify.race.worker import Place, race_seed, tune_seed
from leapverify.runs.progress import Watcher

Rows = Sequence[Sequence[Any]]
"""A mapping as rows of its keys' parts and its value's."""


def tune(
    watcher: Watcher, *, config: Mapping[str, Any], folder: str, threads: int, seed: int, rates: Rows | None
) -> None:
    """`tune_seed`, with everything as JSON."""
    found = None if rates is None else {(task, optimizer): rate for task, optimizer, rate in rates}
    tune_seed(watcher, place=_place(config, folder, threads), seed=seed, rates=found)


def race(
    watcher: Watcher, *, config: Mapping[str, Any], folder: str, threads: int, seed: int, choices: Rows, targets: Rows
) -> None:
    """`race_seed`, with everything as JSON."""
    chosen = {(task, optimizer, arm): TunedChoice(lr, value) for task, optimizer, arm, lr, value in choices}
    stated = {Case(task, optimizer, rate): loss for task, optimizer, rate, loss in targets}
    race_seed(watcher, place=_place(config, folder, threads), seed=seed, choices=chosen, targets=stated)


def _place(config: Mapping[str, Any], folder: str, threads: int) -> Place:
    return Place(RaceConfig.model_validate(config), Path(folder), threads)


def rates_as_json(rates: Mapping[tuple[str, str], float]) -> list[list[Any]]:
    """Rows of task, optimizer, rate."""
    return [[*key, rate] for key, rate in rates.items()]


def choices_as_json(choices: Choices) -> list[list[Any]]:
    """Rows of task, optimizer, arm, rate, value."""
    return [[*key, choice.lr, choice.value] for key, choice in choices.items()]


def targets_as_json(targets: Mapping[Case, float]) -> list[list[Any]]:
    """Rows of task, optimizer, kind of rate, loss."""
    return [[case.task, case.optimizer, case.rate, loss] for case, loss in targets.items()]
