"""The parts of one training run: optimizers, schedules and readouts, as its arm says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from leapverify.core.weights import trainable
from leapverify.leap.anneal.averages import AnnealMemory
from leapverify.leap.api import LeapVerify
from leapverify.race.arms import (
    ANNEAL_STATES,
    LAWA_STATES,
    LOOKAHEAD_ALPHA,
    LOOKAHEAD_STEPS,
    SCHEDULE_FREE_MISSING,
    Arm,
    arm_named,
    setting_of,
    span,
)
from leapverify.race.averages import EMA, LAWA, Lookahead, WeightAverage
from leapverify.race.config import RaceConfig
from leapverify.race.optimizers import make_optimizers
from leapverify.race.plan import RaceUnit
from leapverify.race.readouts import Readout, of_average, of_leap, of_schedule_free
from leapverify.race.tasks import Material, RaceTask
from leapverify.train.schedule import Schedule

WEIGHT_DECAY = 0.01


@dataclass
class RunSetup:
    """What trains and reads one run."""

    parameters: list[torch.nn.Parameter]
    """Those that are trained."""
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[LambdaLR]
    readouts: list[Readout] = field(default_factory=list)
    """The unit's own arm first."""
    leaps: list[LeapVerify] = field(default_factory=list)
    """The engines at work."""


def assemble(unit: RaceUnit, task: RaceTask, config: RaceConfig, material: Material) -> RunSetup:
    """Everything for one run, before its first step."""
    arm = arm_named(unit.arm)
    optimizers = _optimizers(unit, task, arm, material)
    schedulers = [] if arm.schedule == "none" else [_scheduler(schedule_of(unit, task), each) for each in optimizers]
    parts = RunSetup(list(trainable(material.model).values()), optimizers, schedulers)
    assembly = _Assembly(unit, task, config, material, parts)
    parts.readouts += [assembly.readout(name, value) for name, value in ((unit.arm, unit.value), *unit.also)]
    return parts


def schedule_of(unit: RaceUnit, task: RaceTask) -> Schedule:
    """eta of every step of a unit: the task's own shape, WSD with the chosen share of decay, or constant."""
    kind = arm_named(unit.arm).schedule
    decay = None if kind != "wsd" else span(unit.value, unit.steps)
    shape: Any = task.schedule if kind == "task" else kind
    return Schedule(shape, unit.lr, min(task.warmup_steps, unit.steps - 1), unit.steps, decay_steps=decay)


def _scheduler(schedule: Schedule, optimizer: torch.optim.Optimizer) -> LambdaLR:
    # The rate of step i is set after step i - 1; the first one on construction.
    return LambdaLR(optimizer, lambda done: schedule(done + 1) / schedule.peak)


@dataclass(frozen=True)
class _Assembly:
    """One run that is put together."""

    unit: RaceUnit
    task: RaceTask
    config: RaceConfig
    material: Material
    parts: RunSetup

    def readout(self, name: str, value: float | None) -> Readout:
        """How an arm reads the run, with the setting that tuning chose for it."""
        arm, setting = arm_named(name), setting_of(name, value, self.unit.steps, self.task.interval)
        tensors: list[Tensor] = list(self.parts.parameters)
        if arm.read == "plain":
            return Readout(arm=name, setting=setting)
        if arm.read == "schedule-free":
            return of_schedule_free(name, setting, tensors, self.parts.optimizers[0])
        if arm.read in ("ema", "lawa", "lookahead"):
            return of_average(name, setting, tensors, _average(arm, value, self.unit.steps, tensors))
        leap = self._leap(arm, value)
        self.parts.leaps.append(leap)
        annealed = list(trainable(self.material.model)) if arm.read == "anneal" else []
        return of_leap(name, setting, leap, self.material.shares, annealed)

    def _leap(self, arm: Arm, value: float | None) -> LeapVerify:
        unit, material, config = self.unit, self.material, self.config
        wishes: dict[str, Any] = {"interval": self.task.interval, "scheduler": self.parts.schedulers, **arm.leap}
        if arm.leap.get("policy") == "auto":
            wishes["budget"] = config.overhead
        if arm.read == "anneal":
            # Asked for at each reading, not at checkpoints of the engine's own: it observes nothing, nor pays for it.
            memory = AnnealMemory(ANNEAL_STATES, _apart(span(value, unit.steps), ANNEAL_STATES))
            wishes |= {"mode": "monitor", "anneal": memory, "interval": unit.steps + 1}
        return LeapVerify(
            material.model,
            self.parts.optimizers,
            heldout=material.heldout,
            loss=material.losses,
            probes=material.probes,
            layer=material.layer,
            alpha=config.alpha,
            sequences=config.sequences,
            total_steps=unit.steps,
            seed=unit.seed,
            clock="tokens",
            step_tokens=3.0 * material.step_positions,
            **wishes,
        )


def _optimizers(unit: RaceUnit, task: RaceTask, arm: Arm, material: Material) -> list[torch.optim.Optimizer]:
    if arm.read != "schedule-free":
        return make_optimizers(unit.case.optimizer, material.model, unit.lr, WEIGHT_DECAY)
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError as error:
        raise ValueError(SCHEDULE_FREE_MISSING) from error
    chosen = trainable(material.model).values()
    return [AdamWScheduleFree(chosen, lr=unit.lr, weight_decay=WEIGHT_DECAY, warmup_steps=task.warmup_steps)]


def _average(arm: Arm, value: float | None, steps: int, tensors: Sequence[Tensor]) -> WeightAverage:
    if arm.read == "lookahead":
        return Lookahead(tensors, LOOKAHEAD_STEPS, LOOKAHEAD_ALPHA)
    window = span(value, steps)
    return EMA(tensors, window) if arm.read == "ema" else LAWA(tensors, _apart(window, LAWA_STATES), LAWA_STATES)


def _apart(window: int, states: int) -> int:
    """Steps from one state to the next so that so many span a window."""
    return max(1, round(window / states))
