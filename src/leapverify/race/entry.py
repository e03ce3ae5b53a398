"""What workers call: plain data in, and the units of one seed done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leapverify.analysis.race.arms import RaceCase
from leapverify.config.overrides import checked
from leapverify.race.arms import controls_of
from leapverify.race.config import RaceConfig
from leapverify.race.plan import (
    AS_ANOTHER,
    RACE,
    TUNE,
    Choices,
    SeedCase,
    TunedChoice,
    arms_in,
    cases,
    first_round,
    second_round,
)
from leapverify.race.worker import SeedWorker
from leapverify.runs.progress import Watcher

Rows = Sequence[Sequence[Any]]
"""A mapping as rows of its keys' parts and its value's."""


def tune(
    watcher: Watcher, *, config: Mapping[str, Any], folder: str, threads: int, seed: int, rates: Rows | None
) -> None:
    """The tuning runs of a seed.

    Args:
        watcher: is told how it gets on.
        config: of the race, as JSON.
        folder: race/ of the run folder.
        threads: CPU threads.
        seed: for tuning.
        rates: see `rates_as_json`, of WSD for the second round; None: the first round.
    """
    found = checked(RaceConfig, config)
    worker = SeedWorker(watcher, found, Path(folder), seed, TUNE)
    if rates is None:
        units = list(first_round(found, worker.tasks, seed))
    else:
        best = {(task, optimizer): rate for task, optimizer, rate in rates}
        units = list(second_round(found, worker.tasks, seed, best))
    with worker.at_work(len(units), threads):
        for unit in units:
            worker.done(unit)


def race(
    watcher: Watcher, *, config: Mapping[str, Any], folder: str, threads: int, seed: int, choices: Rows, targets: Rows
) -> None:
    """All arms of a seed in all cases, each case's shortened controls behind them.

    Args:
        watcher: is told how it gets on.
        config: of the race, as JSON.
        folder: race/ of the run folder.
        threads: CPU threads.
        seed: of the race.
        choices: see `choices_as_json`.
        targets: see `targets_as_json`.
    """
    found = checked(RaceConfig, config)
    chosen = {(task, optimizer, arm): TunedChoice(lr, value) for task, optimizer, arm, lr, value in choices}
    stated = {RaceCase(task, optimizer, rate): loss for task, optimizer, rate, loss in targets}
    worker = SeedWorker(watcher, found, Path(folder), seed, RACE)
    names = [arms_in(found, case.optimizer) for case in cases(worker.tasks)]
    with worker.at_work(sum(len(arms) + len(controls_of(arms)) for arms in names), threads):
        for case in cases(worker.tasks):
            which = SeedCase(worker.tasks[case.task], case, seed, chosen, stated[case])
            results = {unit.arm: worker.done(unit) for unit in which.units(found)}
            for name, result in which.controls(results, worker.done):
                if result is None or result.run.setting.startswith(AS_ANOTHER):
                    worker.passed(case, name)


def rates_as_json(rates: Mapping[tuple[str, str], float]) -> list[list[Any]]:
    """Rows of task, optimizer, rate."""
    return [[*key, rate] for key, rate in rates.items()]


def choices_as_json(choices: Choices) -> list[list[Any]]:
    """Rows of task, optimizer, arm, rate, value."""
    return [[*key, choice.lr, choice.value] for key, choice in choices.items()]


def targets_as_json(targets: Mapping[RaceCase, float]) -> list[list[Any]]:
    """Rows of task, optimizer, kind of rate, loss."""
    return [[case.task, case.optimizer, case.rate, loss] for case, loss in targets.items()]
