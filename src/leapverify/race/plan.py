"""What there is to train: one unit each, with a name that says what it is and a hash of all that decides it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leapverify.analysis.race.anneal import first_reached
from leapverify.analysis.race.arms import SHORTENED, RaceCase, is_of_predictor
from leapverify.io.checksum import json_sha256
from leapverify.io.records import RacePoint, RaceRun
from leapverify.race.arms import FIRST_DECAY, arm_named, arms_for, controls_of, values_of
from leapverify.race.config import RaceConfig
from leapverify.race.tasks import RaceTask

TUNE, RACE = "tune", "race"
TUNED, USUAL = "tuned", "usual"
READABLE = 120
"""Characters of a unit's name before its hash, at most."""
AS_ANOTHER = "as "
"""A control that would repeat a run of its seed is that run under its own name: `as baseline`."""
SELECTION = ("tasks", "optimizers", "rates", "arms", "predictors", "seeds")
"""Settings that say what is run, and decide no number of any run."""


@dataclass(frozen=True, slots=True)
class RaceUnit:
    """One training run: everything that decides it but the configuration."""

    case: RaceCase
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
        readable = f"{self.stage}-{self.case.task}-{self.case.optimizer}-{self.case.rate}-{self.arm}-{self.seed}"
        digest = json_sha256([self.to_plain(), decided_by])[:12]
        # An arm may name a file, whose path is longer than a file's name may be.
        return f"{re.sub(r'[^a-z0-9.]+', '-', readable)[:READABLE]}-{digest}"


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
    return json_sha256(tree)[:16]


def cases(tasks: Mapping[str, RaceTask]) -> list[RaceCase]:
    """Every case of the tasks."""
    return [
        RaceCase(task.name, optimizer, rate)
        for task in tasks.values()
        for optimizer in task.optimizers
        for rate in task.rates_of(optimizer)
    ]


def label(task: RaceTask) -> str:
    """The rate under which a task's grid is recorded: `usual` where the usual rate is all the grid there is."""
    return TUNED if TUNED in task.rates else USUAL


def first_round(config: RaceConfig, tasks: Mapping[str, RaceTask], seed: int) -> Iterator[RaceUnit]:
    """The tuning runs of a seed that need no other's result: every rate of every schedule; the baseline at usual ones.

    One run at a constant rate is read in all ways at once: as it is, averaged, and annealed.
    """
    for task in tasks.values():
        for optimizer in task.optimizers:
            chosen = arms_in(config, optimizer)
            case = RaceCase(task.name, optimizer, label(task))
            for lr in task.grid(optimizer):
                for arm, value, also in _schedules(chosen):
                    yield RaceUnit(case, arm, seed, TUNE, lr, task.steps, value, also=also)
            if case.rate == TUNED and USUAL in task.rates_of(optimizer):
                usual = case._replace(rate=USUAL)
                yield RaceUnit(usual, "baseline", seed, TUNE, task.usual_lr(optimizer), task.steps)


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
    config: RaceConfig, tasks: Mapping[str, RaceTask], seed: int, rates: Mapping[tuple[str, str], float]
) -> Iterator[RaceUnit]:
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
                case, lr = RaceCase(task.name, optimizer, label(task)), rates[task.name, optimizer]
                for value in values_of("wsd"):
                    if value != FIRST_DECAY:
                        yield RaceUnit(case, "wsd", seed, TUNE, lr, task.steps, value)


@dataclass(frozen=True)
class SeedCase:
    """One seed of the race in one case, with all that decides its units."""

    task: RaceTask
    """Of the case."""
    case: RaceCase
    seed: int
    choices: Choices
    """Of tuning."""
    target: float
    """The loss that was stated before."""

    def units(self, config: RaceConfig) -> list[RaceUnit]:
        """Its runs, controls left out: how long those are, the others tell."""
        return [self.unit(name, self.task.steps) for name in arms_in(config, self.case.optimizer)]

    def unit(self, name: str, steps: int) -> RaceUnit:
        """The run of an arm or a control over so many steps."""
        arm, optimizer = arm_named(name), self.case.optimizer
        chosen = self.choices[self.task.name, optimizer, arm.tuned_as]
        lr = chosen.lr if self.case.rate == TUNED else self.task.usual_lr(optimizer)
        return RaceUnit(self.case, name, self.seed, RACE, arm.factor * lr, steps, chosen.value, self.target)

    def control(self, name: str, results: Mapping[str, Result]) -> RaceUnit | Result | None:
        """A shortened control: the unit to train, the run that it would repeat, or None if it has no length.

        Args:
            name: of the control.
            results: arm -> what it gave on this seed.
        """
        whole = "wsd" if name == SHORTENED + "anneal" else "baseline"
        steps = _reached(results) if whole == "wsd" else _taken(results[name.removeprefix(SHORTENED)].run)
        if steps is None:
            return None
        if steps >= self.task.steps:
            return results[whole].under(name, AS_ANOTHER + whole)
        return self.unit(name, steps)

    def controls(
        self, results: Mapping[str, Result], done: Callable[[RaceUnit], Result]
    ) -> Iterator[tuple[str, Result | None]]:
        """The controls that its arms ask for, one after another: name and result, None if it has no length.

        Arms of predictors that took equally many real steps share one control: there may be dozens of them, and nothing
        but its steps decides it.

        Args:
            results: arm -> what it gave on this seed.
            done: gives a unit's result, by training it or from its file.
        """
        shared: dict[int, tuple[str, Result]] = {}
        for name in controls_of(results):
            found = self.control(name, results)
            if not isinstance(found, RaceUnit):
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


def _taken(run: RaceRun) -> int:
    """Real steps of a run; of one that diverged, those that its leaps would have left."""
    return run.real_steps if run.final_loss is not None else max(1, run.steps - run.leapt_steps)


def _reached(results: Mapping[str, Result]) -> int | None:
    """Real step at which `anneal` first reached the seed's final WSD loss; None if never."""
    goal = results["wsd"].run.final_loss
    readings = [point for point in results["anneal"].points if point.arm == "anneal"]
    found = None if goal is None else first_reached(readings, goal)
    return found.step if found else None
