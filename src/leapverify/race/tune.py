"""Before the race: learning rates, settings and targets, chosen on seeds of their own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leapverify.analysis.race.arms import BASELINE, RaceCase, case_of
from leapverify.errors import Damaged
from leapverify.io.storage import read_json, write_json
from leapverify.race.arms import arm_named, setting_of, values_of
from leapverify.race.config import RaceConfig
from leapverify.race.plan import TUNED, Choices, Result, TunedChoice, arms_in, cases, label
from leapverify.race.tasks import RaceTask
from leapverify.runs import StudyError

TARGET_SHARE = 0.9
"""The target is what the tuned baseline reports after this share of its steps."""


def choose(task: RaceTask, optimizer: str, arm: str, results: Iterable[Result]) -> TunedChoice:
    """The learning rate and setting of an arm with the lowest mean final loss over the tuning seeds.

    What is not finite on any of the seeds is not chosen. Where nothing is finite it is the lowest rate, and the race
    shows what that comes to; of the baseline that is an error.

    Args:
        task: the task.
        optimizer: its name.
        arm: that was tuned.
        results: of the tuning units of all tasks and seeds.

    Raises:
        StudyError: no rate trains the baseline.
    """
    case = RaceCase(task.name, optimizer, label(task))
    runs = [run for result in results for run in result.runs if case_of(run) == case and run.arm == arm]
    values = {setting_of(arm, value, task.steps, task.interval): value for value in values_of(arm) or (None,)}
    losses: dict[TunedChoice, list[float]] = {}
    for run in runs:
        choice = TunedChoice(run.lr, values[run.setting])
        losses.setdefault(choice, []).append(math.inf if run.final_loss is None else run.final_loss)
    means = {choice: statistics.fmean(found) for choice, found in losses.items()}
    finite = {choice: mean for choice, mean in means.items() if math.isfinite(mean)}
    if not finite and arm == BASELINE:
        raise StudyError(
            f"no learning rate of {list(task.grid(optimizer))} trains {task.name} with {optimizer} to a finite loss: "
            "give lower ones"
        )
    return min(finite, key=lambda choice: finite[choice]) if finite else min(means, key=lambda each: each.lr)


def choose_all(
    config: RaceConfig, tasks: Mapping[str, RaceTask], results: Sequence[Result]
) -> dict[tuple[str, str, str], TunedChoice]:
    """(task, optimizer, tuned arm) -> what tuning chose, for every arm that the race takes from."""
    chosen = {}
    for task in tasks.values():
        for optimizer in task.optimizers:
            for arm in dict.fromkeys(arm_named(name).tuned_as for name in arms_in(config, optimizer)):
                chosen[task.name, optimizer, arm] = choose(task, optimizer, arm, results)
    return chosen


def best_wsd_rates(
    config: RaceConfig, tasks: Mapping[str, RaceTask], results: Sequence[Result]
) -> dict[tuple[str, str], float]:
    """(task, optimizer) -> WSD's best rate at the first share of decay, where WSD is run."""
    return {
        (task.name, optimizer): choose(task, optimizer, "wsd", results).lr
        for task in tasks.values()
        for optimizer in task.optimizers
        if "wsd" in arms_in(config, optimizer)
    }


def state_targets(
    path: Path,
    tasks: Mapping[str, RaceTask],
    choices: Choices,
    results: Sequence[Result],
) -> dict[RaceCase, float]:
    """The targets of all cases: those that the file states, and new ones, which are written before anything is raced.

    Args:
        path: targets.json.
        tasks: of the race.
        choices: of tuning.
        results: of tuning.

    Returns:
        RaceCase -> mean over the tuning seeds of the baseline's reported loss after 90 % of its steps.

    Raises:
        Damaged: the file is there and cannot be read.
        StudyError: the baseline diverged before that on a tuning seed.
    """
    stated: dict[str, Any] = read_json(path) if path.exists() else {}
    if not isinstance(stated, dict):
        raise Damaged(f"{path} is damaged: it states no targets; delete it")
    found = {}
    for case in cases(tasks):
        if str(case) not in stated:
            stated[str(case)] = _target(case, tasks[case.task], choices, results)
        try:
            found[case] = float(stated[str(case)]["target"])
        except (TypeError, KeyError, ValueError) as error:
            raise Damaged(f"{path} is damaged: it states no target for {case}; delete it") from error
    write_json(path, stated)
    return found


def _target(case: RaceCase, task: RaceTask, choices: Choices, results: Sequence[Result]) -> dict[str, Any]:
    tuned = choices[case.task, case.optimizer, BASELINE].lr
    lr = tuned if case.rate == TUNED else task.usual_lr(case.optimizer)
    wanted = (case, BASELINE, lr)
    chosen = [each for each in results if (case_of(each.run), each.run.arm, each.run.lr) == wanted]
    losses = {result.run.seed: _late(result) for result in chosen}
    if not losses or None in losses.values():
        raise StudyError(
            f"the baseline of {case} at learning rate {lr:g} ends with no finite loss on tuning seed "
            f"{next((seed for seed, loss in losses.items() if loss is None), 'any')}: give lower rates"
        )
    return {
        "target": statistics.fmean(loss for loss in losses.values() if loss is not None),
        "after_share_of_steps": TARGET_SHARE,
        "lr": lr,
        "tuning_seeds": sorted(losses),
    }


def _late(result: Result) -> float | None:
    """The reported loss at the last reading within the first 90 % of the steps."""
    until = [point for point in result.points if point.step <= TARGET_SHARE * result.run.steps]
    return None if result.run.final_loss is None else until[-1].loss


def edges(tasks: Mapping[str, RaceTask], choices: Choices) -> list[str]:
    """A sentence for every choice at the end of its grid of rates: the best one may lie beyond."""
    found = []
    for (name, optimizer, arm), choice in choices.items():
        grid = tasks[name].grid(optimizer)
        if len(grid) > 1 and choice.lr in (grid[0], grid[-1]):
            end = "lowest" if choice.lr == grid[0] else "highest"
            found.append(f"{name}, {optimizer}: {arm} was tuned to {choice.lr:g}, the {end} rate tried")
    return found
