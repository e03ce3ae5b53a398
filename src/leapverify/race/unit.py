"""One training run: the same loop for every arm, what is read of it, and what it cost.

Costs are forward-token equivalents: a step costs three times its positions, and the engine's ledger adds what it ran
forward and copied. Averages and Lookahead cost no tokens, only seconds. Reading the reported loss is the instrument
and is charged to nobody, in neither unit.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leapverify.core.stopwatch import Stopwatch
from leapverify.io.records import RacePoint, RaceRun
from leapverify.race.arms import arm_named
from leapverify.race.assemble import RunSetup, assemble
from leapverify.race.averages import swapped
from leapverify.race.config import RaceConfig
from leapverify.race.parallel import parallel_material
from leapverify.race.plan import RACE, RaceUnit, Result
from leapverify.race.readouts import Readout
from leapverify.race.tasks import Material, RaceTask
from leapverify.runs.world import present
from leapverify.verify.comparison import mean_loss_of

WARM_STEPS = 8
"""Of a process's first run, which is not kept."""

Look = Callable[[int, float | None], None]
"""Told of every reading: real step, loss."""


def _unseen(_step: int, _loss: float | None) -> None:
    """A look that sees nothing."""


def run_unit(unit: RaceUnit, task: RaceTask, config: RaceConfig, folder: Path, look: Look = _unseen) -> Result:
    """Train a unit to its end, or to where its loss is not finite.

    Args:
        unit: what to train.
        task: its task, prepared for the seed.
        config: of the race.
        folder: what `task.prepare` was given.
        look: told of every reading.

    Returns:
        One row per reading, the points of the unit's own arm, and the engine's events.
    """
    # What libraries and the engine have to say belongs into the record, not across the view of the race.
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = _Training(unit, task, config, task.material(unit.seed, folder), look).run()
    notes = [*result.notes, *dict.fromkeys(str(each.message) for each in said)]
    return Result(result.runs, result.points, result.events, tuple(notes))


def warm_up(unit: RaceUnit, task: RaceTask, config: RaceConfig, folder: Path) -> None:
    """Train and leap for a moment and keep nothing: the first run of a process pays for what all load only once."""
    short = copy.copy(task)
    short.steps, short.warmup_steps, short.eval_every, short.interval = WARM_STEPS, 0, WARM_STEPS, 2
    run_unit(dataclasses.replace(unit, arm="always-reject", steps=WARM_STEPS, also=()), short, config, folder)


class _Training:
    """A run that goes on."""

    def __init__(self, unit: RaceUnit, task: RaceTask, config: RaceConfig, material: Material, look: Look) -> None:
        self._ranks = present()
        torch.manual_seed(self._ranks.stream_seed(unit.seed))
        material = parallel_material(material, self._ranks)
        self._unit, self._task, self._material, self._look = unit, task, material, look
        self._val = material.val()
        self._watch = Stopwatch(next(material.model.parameters()).device)
        self._parts: RunSetup = assemble(unit, task, config, material)
        self._points: list[RacePoint] = []
        self._step = 0
        self._loss: Tensor | None = None

    def run(self) -> Result:
        """Train, read, and say what it came to."""
        own, *others = self._parts.readouts
        try:
            going = self._read(own) is not None
            while going and self._effective < self._unit.steps:
                self._train()
                for readout in self._parts.readouts:
                    readout.after(self._step)
                if self._step % self._task.eval_every == 0 or self._effective >= self._unit.steps:
                    going = self._read(own) is not None
            rows = [self._row(own, self._points[-1])]
            rows += [self._row(readout, self._point(readout, going)) for readout in others]
            return Result(tuple(rows), tuple(self._points), *self._told())
        finally:
            for readout in self._parts.readouts:
                readout.close()

    @property
    def _effective(self) -> int:
        return self._step + self._parts.readouts[0].leapt()

    def _train(self) -> None:
        self._step += 1
        material, parts = self._material, self._parts
        loss = material.loss(material.model, material.batch(self._step))
        loss.backward()  # type: ignore[no-untyped-call]
        if material.grad_clip is not None:
            nn.utils.clip_grad_norm_(parts.parameters, material.grad_clip)
        for optimizer in parts.optimizers:
            optimizer.step()
        for scheduler in parts.schedulers:
            scheduler.step()
        for optimizer in parts.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self._loss = loss.detach()

    def _read(self, readout: Readout) -> float | None:
        """The reported loss now, kept as a point; None where it, or the training loss, is not finite."""
        # Said once a reading and not once a step: asking would make an accelerator wait.
        trained = self._loss is None or bool(torch.isfinite(self._loss))
        trained = not self._ranks.any("training loss", not trained)
        self._points.append(self._point(readout, trained))
        return self._points[-1].loss

    def _point(self, readout: Readout, finite: bool) -> RacePoint:
        weights = readout.weights() if finite else None
        # Training and what this readout takes; what others take of the same run is not its business.
        others_s = sum(each.bill().seconds for each in self._parts.readouts if each is not readout)
        seconds, bill = self._watch.seconds - others_s, readout.bill()
        with self._watch.held():
            loss = self._reported(weights) if finite else None
            self._look(self._step, loss)
        return RacePoint(
            **self._names(readout),
            step=self._step,
            effective_step=self._step + readout.leapt(),
            tokens=3.0 * self._material.step_positions * self._step + bill.tokens,
            seconds=seconds,
            loss=loss,
        )

    def _names(self, readout: Readout) -> dict[str, Any]:
        """What a run and its points have in common."""
        unit = self._unit
        names = {"arm": readout.arm, "seed": unit.seed, "stage": unit.stage, "lr": unit.lr, "setting": readout.setting}
        return unit.case._asdict() | names

    def _reported(self, weights: Sequence[Tensor] | None) -> float | None:
        with nullcontext() if weights is None else swapped(self._parts.parameters, weights):
            material = self._material
            loss = mean_loss_of(material.model, material.reported or material.losses, self._val)
        return loss if math.isfinite(loss) else None

    def _row(self, readout: Readout, last: RacePoint) -> RaceRun:
        unit, bill, size = self._unit, readout.bill(), self._material.heldout_size
        hit = self._hit() if unit.stage == RACE else None
        return RaceRun(
            **self._names(readout),
            steps=unit.steps,
            real_steps=self._step,
            effective_steps=last.effective_step,
            final_loss=last.loss,
            target=unit.target,
            target_step=None if hit is None else hit.step,
            target_tokens=None if hit is None else hit.tokens,
            target_s=None if hit is None else hit.seconds,
            tokens=last.tokens,
            seconds=last.seconds,
            overhead_tokens=bill.tokens,
            overhead_s=bill.seconds,
            attempts=bill.attempts,
            accepted=bill.accepted,
            leapt_steps=readout.leapt(),
            heldout_batches=bill.heldout_batches,
            heldout_passes=None if size is None else bill.heldout_batches / size,
        )

    def _hit(self) -> RacePoint | None:
        """The first reading after training has begun at or below the target."""
        target = self._unit.target
        if target is None:
            return None
        return next((p for p in self._points if p.step and p.loss is not None and p.loss <= target), None)

    def _told(self) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
        """The engines' events, and why any of them switched itself off."""
        leaps = self._parts.leaps
        events = tuple(event.to_dict() for leap in leaps for event in leap.events)
        name = arm_named(self._unit.arm).name
        return events, tuple(f"{name}: {leap.disabled}" for leap in leaps if leap.disabled)
