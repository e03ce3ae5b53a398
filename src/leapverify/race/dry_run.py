"""What a race would train, and about what that costs, before anything is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from leapverify.analysis.race.arms import ALWAYS, SHORTENED, VERIFIED, RaceCase
from leapverify.analysis.wording import counted
from leapverify.race.arms import controls_of
from leapverify.race.config import RaceConfig
from leapverify.race.plan import RACE, TUNE, arms_in, cases, first_round, second_round
from leapverify.race.tasks import RaceTask, build_tasks

NAMED = 6
"""Arms that begin alike are named up to so many: with every predictor there are more than a line can hold."""


def dry_run(config: RaceConfig) -> list[str]:
    """One line per stage and case: what runs, how often, and about how many forward-token equivalents that takes.

    Every run counts in full, as if no arm leapt over anything, without what the tool spends; controls count as
    whole runs, though they are shorter. Nothing is trained or written.
    """
    tasks = build_tasks(config)
    rates = {(task.name, optimizer): 1.0 for task in tasks.values() for optimizer in task.optimizers}
    seed = config.tuning_seeds[0]
    tuning: dict[RaceCase, Counter[str]] = {}
    for unit in [*first_round(config, tasks, seed), *second_round(config, tasks, seed, rates)]:
        tuning.setdefault(unit.case, Counter())[unit.arm] += 1
    racing = {case: Counter(_raced(config, case)) for case in cases(tasks)}
    positions = {task.name: _positions(config, task) for task in tasks.values()}
    said, total = [], 0.0
    for stage, seeds, found in ((TUNE, len(config.tuning_seeds), tuning), (RACE, len(config.seeds), racing)):
        for case, arms in found.items():
            runs = seeds * arms.total()
            tokens = 3.0 * runs * tasks[case.task].steps * positions[case.task]
            total += tokens
            much = f"{counted(seeds, 'seed')}  {counted(runs, 'run')}  {tokens:.2e} tokens"
            said.append(f"{stage}  {case.task} {case.optimizer} {case.rate}  {_listed(arms)}  {much}")
    return [*said, f"total  {total:.2e} forward-token equivalents, at most, without what the tool spends"]


def _raced(config: RaceConfig, case: RaceCase) -> Iterable[str]:
    arms = arms_in(config, case.optimizer)
    return [*arms, *controls_of(arms)]


def _positions(config: RaceConfig, task: RaceTask) -> int:
    """Positions of a step, without reading any text."""
    if task.name in ("pretrain", "finetune", "lora"):
        return config.text.batch_size * config.text.sequence_length
    return task.material(config.tuning_seeds[0], Path()).step_positions


def _listed(arms: Mapping[str, int]) -> str:
    """The arms by name; more than `NAMED` that begin alike (`always:`, `leap:`, `shortened:`) by their number."""
    marks = {name: next((mark for mark in (ALWAYS, VERIFIED, SHORTENED) if name.startswith(mark)), "") for name in arms}
    many = {mark: count for mark, count in Counter(marks.values()).items() if mark and count > NAMED}
    said: dict[str, None] = {}
    for name, count in arms.items():
        mark = marks[name]
        once = f"{mark}... ({many[mark]} arms)" if mark in many else name
        said[once if count == 1 else f"{once} x{count}"] = None
    return ", ".join(said)
