"""What there is to train: one unit each, with a name that says what it is and a hash of all that decides it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leapverify.analysis.race.anneal import first_reached
from leapverify.analysis.race.arms import SHORTENED, Case, is_of_predictor
from leapverify.io.records import RacePoint, RaceRun
from leapverify.race.arms import FIRST_DECAY, arm_named, arms_for, controls_of, values_of
from leapverify.race.config import RaceConfig
from leapverify.race.tasks import Task

TUNE, RACE = "tune", "race"
TUNED, USUAL = "tuned", "usual"
READABLE = 120
"""Characters of a unit's name before its hash, at most."""
AS_ANOTHER = "as "
"""A control that would repeat a run of its seed is that run under its own name: `as baseline`."""
SELECTION = ("tasks", "optimizers", "rates", "arms", "predictors", "seeds")
"""Settings that say what is run, and decide no number of any run."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One training run: everything that decides it but the configuration."""

    case: Case
    arm: str
    seed: int
    stage: str
    """tune | race."""
    lr: float
    """Peak of eta."""
    steps: int
    """Planned, the length of the schedule."""
    value: float | None = None
    """The setting that tuning chose, such as WSD's share of decay."""
    target: float | None = None
    also: tuple[tuple[str, float | None], ...] = ()
    """Further readings of the same weights: arm and setting. They do not touch the run."""

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self) | {"case": self.case._asdict()}

    def key(self, decided_by: str) -> str:
        """Name of the unit's file.

        Args:
            decided_by: the configuration's digest.
        """
        content = json.dumps([self.to_plain(), decided_by], sort_keys=True)
        readable = f"{self.stage}-{self.case.task}-{self.case.optimizer}-{self.case.rate}-{self.arm}-{self.seed}"
        # An arm may name a file, whose path is longer than a file's name may be.
        return f"{re.sub(r'[^a-z0-9.]+', '-', readable)[:READABLE]}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Result:
    """What a unit gave."""

    runs: tuple[RaceRun, ...]
    """One per reading, the unit's own arm first."""
    points: tuple[RacePoint, ...]
    events: tuple[dict[str, Any], ...] = ()
    """Of the engine, the newest thousand."""
    notes: tuple[str, ...] = ()

    @property
    def run(self) -> RaceRun:
        """The row of the unit's own arm."""
        return self.runs[0]

    def under(self, arm: str, setting: str) -> Result:
        """The same numbers recorded as another arm's."""
        return Result(
            (dataclasses.replace(self.run, arm=arm, setting=setting),),
            tuple(dataclasses.replace(point, arm=arm, setting=setting) for point in self.points),
        )


@dataclass(frozen=True, slots=True)
class TunedChoice:
    """What tuning chose for an arm."""

    lr: float
    value: float | None = None


Choices = Mapping[tuple[str, str, str], TunedChoice]
"""(task, optimizer, arm that was tuned) -> choice."""


def digest(config: RaceConfig) -> str:
    """Hash of all settings that decide numbers."""
    tree = config.model_dump(mode="json", exclude=set(SELECTION))
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def cases(tasks: Mapping[str, Task]) -> list[Case]:
    """Every case of the tasks."""
    return [
        Case(task.name, optimizer, rate)
        for task in tasks.values()
        for optimizer in task.optimizers
        for rate in task.rates_of(optimizer)
    ]


def label(task: Task) -> str:
    """The rate under which a task's grid is recorded: `usual` where the usual rate is all the grid there is."""
    return TUNED if TUNED in task.rates else USUAL


def first_round(config: RaceConfig, tasks: Mapping[str, Task], seed: int) -> Iterator[Unit]:
    """The tuning runs of a seed that need no other's result: every rate of every schedule; the baseline at usual ones.

    One run at a constant rate is read in all ways at once: as it is, averaged, and annealed.
    """
    for task in tasks.values():
        for optimizer in task.optimizers:
            chosen = arms_in(config, optimizer)
            case = Case(task.name, optimizer, label(task))
            for lr in task.grid(optimizer):
                for arm, value, also in _schedules(chosen):
                    yield Unit(case, arm, seed, TUNE, lr, task.steps, value, also=also)
            if case.rate == TUNED and USUAL in task.rates_of(optimizer):
                usual = case._replace(rate=USUAL)
                yield Unit(usual, "baseline", seed, TUNE, task.usual_lr(optimizer), task.steps)


def _schedules(arms: Sequence[str]) -> Iterator[tuple[str, float | None, tuple[tuple[str, float | None], ...]]]:
    yield "baseline", None, ()
    if "wsd" in arms:
        yield "wsd", FIRST_DECAY, ()
    if {"constant", "ema", "lawa", "anneal"} & {*arms}:
        also = [(arm, value) for arm in ("anneal", "ema", "lawa") if arm in arms for value in values_of(arm)]
        yield "constant", None, tuple(also)
    if "schedule-free" in arms:
        yield "schedule-free", None, ()


def second_round(
    config: RaceConfig, tasks: Mapping[str, Task], seed: int, rates: Mapping[tuple[str, str], float]
) -> Iterator[Unit]:
    """The tuning runs of a seed that vary WSD's share of decay at its best learning rate.

    Args:
        config: of the race.
        tasks: its tasks.
        seed: for tuning.
        rates: (task, optimizer) -> the best rate of WSD in the first round.
    """
    for task in tasks.values():
        for optimizer in task.optimizers:
            if "wsd" in arms_in(config, optimizer):
                case, lr = Case(task.name, optimizer, label(task)), rates[task.name, optimizer]
                for value in values_of("wsd"):
                    if value != FIRST_DECAY:
                        yield Unit(case, "wsd", seed, TUNE, lr, task.steps, value)


def race_units(config: RaceConfig, task: Task, case: Case, seed: int, choices: Choices, target: float) -> list[Unit]:
    """The runs of a seed in a case, controls left out: how long those are, the others tell."""
    return [_unit(task, case, name, seed, choices, target, task.steps) for name in arms_in(config, case.optimizer)]


def _unit(task: Task, case: Case, name: str, seed: int, choices: Choices, target: float, steps: int) -> Unit:
    arm = arm_named(name)
    chosen = choices[task.name, case.optimizer, arm.tuned_as]
    lr = chosen.lr if case.rate == TUNED else task.usual_lr(case.optimizer)
    return Unit(case, name, seed, RACE, arm.factor * lr, steps, chosen.value, target)


def controls(
    task: Task,
    case: Case,
    seed: int,
    choices: Choices,
    target: float,
    results: Mapping[str, Result],
    done: Callable[[Unit], Result],
) -> Iterator[tuple[str, Result | None]]:
    """The controls that the arms of a seed ask for, one after another: name and result, None if it has no length.

    Arms of predictors that took equally many real steps share one control: there may be dozens of them, and nothing
    but its steps decides it.

    Args:
        task: of the case.
        case: task, optimizer, rate.
        seed: of the race.
        choices: of tuning.
        target: the loss stated before.
        results: arm -> what it gave on this seed.
        done: gives a unit's result, by training it or from its file.
    """
    shared: dict[int, tuple[str, Result]] = {}
    for name in controls_of(results):
        found = control(task, case, name, seed, choices, target, results)
        if not isinstance(found, Unit):
            yield name, found
        elif not is_of_predictor(name):
            yield name, done(found)
        elif found.steps in shared:
            other, result = shared[found.steps]
            yield name, result.under(name, AS_ANOTHER + other)
        else:
            shared[found.steps] = name, done(found)
            yield shared[found.steps]


def arms_in(config: RaceConfig, optimizer: str) -> tuple[str, ...]:
    """The arms of a race that run with an optimizer on this machine."""
    return arms_for(config.arms, optimizer, config.predictors)


def control(
    task: Task, case: Case, name: str, seed: int, choices: Choices, target: float, results: Mapping[str, Result]
) -> Unit | Result | None:
    """A shortened control: the unit to train, the run of another arm that it would repeat, or None if it has no length.

    Args: as for `controls`, and the control's name.
    """
    whole = "wsd" if name == SHORTENED + "anneal" else "baseline"
    steps = _reached(results) if whole == "wsd" else _taken(results[name.removeprefix(SHORTENED)].run)
    if steps is None:
        return None
    if steps >= task.steps:
        return results[whole].under(name, AS_ANOTHER + whole)
    return _unit(task, case, name, seed, choices, target, steps)


def _taken(run: RaceRun) -> int:
    """Real steps of a run; of one that diverged, those that its leaps would have left."""
    return run.real_steps if run.final_loss is not None else max(1, run.steps - run.leapt_steps)


def _reached(results: Mapping[str, Result]) -> int | None:
    """Real step at which `anneal` first reached the seed's final WSD loss; None if never."""
    goal = results["wsd"].run.final_loss
    readings = [point for point in results["anneal"].points if point.arm == "anneal"]
    found = None if goal is None else first_reached(readings, goal)
    return found.step if found else None
