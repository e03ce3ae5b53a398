"""The training of one seed with everything that is measured on the way (SPEC 6.1), resumable at every checkpoint."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from torch import Tensor

from leapverify.observe import Thresholds, classify_regimes, loss_curvature, similarity, straightness
from leapverify.observe.similarity import Kind
from leapverify.records import Checkpoint, LossPoint
from leapverify.storage import Damaged, sweep_leftovers, write_json
from leapverify.study.cascade import Cascader, Start
from leapverify.study.clock import PARTS, Clock
from leapverify.study.config import StudyConfig
from leapverify.study.executor import StudyError, exclusive
from leapverify.study.folder import Rows, SeedFolder, keep_only, needed_to_resume
from leapverify.study.lyapunov import Shadow
from leapverify.study.progress import Progress, Watcher
from leapverify.study.settings import effective
from leapverify.study.setup import Apparatus, build, open_corpus, threads_of
from leapverify.study.sweep import Sweeper, SweepPoint, curve_steps
from leapverify.train.state import (
    load_snapshot,
    load_state,
    save_snapshot,
    save_state,
    snapshot_path,
    snapshot_steps,
)
from leapverify.verify import recent_sigma
from leapverify.weights import copy_

logger = logging.getLogger(__name__)

SIMILARITIES: tuple[Kind, ...] = ("concatenated", "per-probe", "centred")
REPORT_EVERY_STEPS = 20
"""How often a watcher hears of a seed between checkpoints."""


def record_seed(
    watcher: Watcher, *, config: StudyConfig, thresholds: Thresholds, seed: int, run: Path, device: str, threads: int
) -> None:
    """Train one seed to its end, from where an earlier call stopped.

    Raises:
        StudyError: the loss is no number any more, or another study holds the folder.
        ValueError: text, tokenizer or model cannot be had.
    """
    folder = SeedFolder(run, seed)
    with exclusive(folder.path), threads_of(threads):
        if folder.done:
            watcher(Progress(seed, config.training.steps, config.training.steps, "done"))
            return
        sweep_leftovers(folder.path)
        config = effective(config)
        apparatus = build(config, seed, device, open_corpus(config))
        Recorder(apparatus, thresholds, folder, watcher).run()


class Recorder:
    """Trains, observes, sweeps and saves one seed."""

    def __init__(self, apparatus: Apparatus, thresholds: Thresholds, folder: SeedFolder, watcher: Watcher) -> None:
        self._a, self._thresholds, self._folder, self._watcher = apparatus, thresholds, folder, watcher
        self._config = apparatus.config
        self._steps = self._config.training.steps
        self._tensors = list(apparatus.moved.values())
        self._rows = Rows.empty()
        self._fingerprints: dict[int, Tensor] = {}
        self._clock = Clock(apparatus.device)
        self._elapsed_s = 0.0
        self._sweeper = Sweeper(self._tensors, apparatus.history, apparatus.verifier, self._config.sweep)
        self._cascader = Cascader(
            apparatus.model,
            apparatus.optimizer,
            self._tensors,
            apparatus.history,
            apparatus.verifier,
            apparatus.train,
            apparatus.optimizer_state,
            self._config.cascade,
        )
        self._curve_at = curve_steps(
            self._steps, self._config.observe.interval_steps, self._config.sweep, self._config.cascade
        )
        self._shadow = self._make_shadow()

    def run(self) -> None:
        """Every step from the last whole state to the end."""
        start = self._resume()
        if start == 0:
            self._fingerprints[0] = self._a.fingerprinter()
        interval = self._config.observe.interval_steps
        self._clock.start(self._elapsed_s)
        losses = torch.zeros((), device=self._a.device)
        for step in range(start + 1, self._steps + 1):
            losses += self._step(step)
            if step in self._curve_at and step % interval:
                with self._clock.part("evaluate"):
                    loss = self._a.verifier.loss_of()
                self._rows.curve.append(LossPoint(self._a.seed, step, loss))
            if step % interval == 0:
                self._checkpoint(step, float(losses) / interval)
                losses.zero_()
            elif step % REPORT_EVERY_STEPS == 0:
                self._tell(step, "train")
        self._finish()

    def _step(self, step: int) -> Tensor:
        a, rate, batch = self._a, self._a.schedule(step), self._a.batch(step)
        if self._shadow is not None:
            with self._clock.part("lyapunov"):
                self._shadow.step_with(lambda model, optimizer: a.step(model, optimizer, batch, rate))
        with self._clock.part("train"):
            return a.step(a.model, a.optimizer, batch, rate)

    def _checkpoint(self, step: int, train_loss: float) -> None:
        if not math.isfinite(train_loss):
            raise StudyError(
                f"the training loss is {train_loss} between steps {step - self._config.observe.interval_steps} and "
                f"{step}: lower training.lr (now {self._config.training.lr:g}); the checkpoints before are kept"
            )
        with self._clock.part("observe"):
            similarities = self._observe(step)
        with self._clock.part("evaluate"):
            now = self._a.verifier.measure()
            val_loss = self._a.validator.loss_of()
        regime = self._regime(step, similarities)
        self._rows.curve.append(LossPoint(self._a.seed, step, now.loss))
        heldout = [*(row.heldout_loss for row in self._rows.checkpoints), now.loss]
        sigma = recent_sigma(heldout, self._config.verify.sigma_window)
        with self._clock.part("sweep"):
            self._a.history.push(step, self._tensors)
            self._a.history.optimizer = self._a.optimizer_state(step)
            if regime in self._config.sweep.regimes:
                self._rows.predictions += self._sweeper.sweep(SweepPoint(self._a.seed, step, regime, now, sigma))
        with self._clock.part("cascade"):
            if regime == "stable" and self._cascade_again(step):
                self._rows.cascades += self._cascader.run(Start(self._a.seed, step, now.loss))
        with self._clock.part("lyapunov"):
            exponent = self._exponent()
        with self._clock.part("snapshot"):
            self._save(step)
        self._rows.checkpoints.append(
            self._row(step, regime, similarities, train_loss, now.loss, val_loss, exponent, heldout)
        )
        speed = self._config.observe.interval_steps / max(self._clock["train"], 1e-9)
        # The seconds of writing this row can only stand in the next one.
        self._clock.next_interval()
        with self._clock.part("snapshot"):
            self._commit()
        self._tell(step, "checkpoint", speed)

    def _observe(self, step: int) -> dict[str, float | None]:
        """Take the fingerprint of this checkpoint and compare it with the one before."""
        fingerprint = self._a.fingerprinter()
        interval = self._config.observe.interval_steps
        before, self._fingerprints[step] = self._fingerprints[step - interval], fingerprint
        if step == interval:  # the untrained model is no checkpoint
            return dict.fromkeys(SIMILARITIES)
        return {kind: similarity(fingerprint, before, kind) for kind in SIMILARITIES}

    def _regime(self, step: int, similarities: dict[str, float | None]) -> str:
        """The label of this checkpoint, from the similarities so far."""
        so_far = [row.similarity for row in self._rows.checkpoints]
        sums = [row.eta_sum for row in self._rows.checkpoints]
        return classify_regimes(
            [*so_far, similarities[self._config.observe.similarity]],
            self._thresholds,
            eta_sums=[*sums, self._eta_sum(step)],
            hysteresis=self._config.regimes.hysteresis,
        )[-1]

    def _eta_sum(self, step: int) -> float:
        interval = self._config.observe.interval_steps
        return self._a.schedule.sum(step - interval, interval)

    def _cascade_again(self, step: int) -> bool:
        limit = self._config.cascade.max_starts
        return limit is None or len({row.step for row in self._rows.cascades} | {step}) <= limit

    def _row(
        self,
        step: int,
        regime: str,
        similarities: dict[str, float | None],
        train_loss: float,
        heldout_loss: float,
        val_loss: float,
        exponent: float | None,
        heldout: list[float],
    ) -> Checkpoint:
        t = self._config.training
        return Checkpoint(
            seed=self._a.seed,
            step=step,
            lr=self._a.schedule(step),
            eta_sum=self._eta_sum(step),
            train_loss=train_loss,
            heldout_loss=heldout_loss,
            val_loss=val_loss,
            similarity=similarities[self._config.observe.similarity],
            similarity_concatenated=similarities["concatenated"],
            similarity_per_probe=similarities["per-probe"],
            similarity_centred=similarities["centred"],
            regime=regime,
            straightness=self._straightness(),
            loss_curvature=loss_curvature(heldout),
            lyapunov=exponent,
            tokens=step * t.batch_size * t.sequence_length,
            elapsed_s=self._clock.elapsed_s,
            **{f"{part}_s": self._clock[part] for part in PARTS},
        )

    def _straightness(self) -> float | None:
        history = self._a.history
        if len(history) < 3:
            return None
        return straightness(history[-1].tensors, history[-2].tensors, history[-3].tensors)

    def _save(self, step: int) -> None:
        """Weights first, then the optimizer: the second is what a resume looks for."""
        save_snapshot(self._folder.snapshots, step, dict(self._a.parameters))
        save_state(snapshot_path(self._folder.states, step), self._a.model, self._a.optimizer, step=step, weights=False)
        if self._shadow is not None:
            path = snapshot_path(self._folder.path / "shadow", step)
            save_state(path, self._shadow.model, self._shadow.optimizer, step=step)

    def _commit(self) -> None:
        """Write the rows, then let go of what a resume does not need any more."""
        self._folder.write_fingerprints(self._fingerprints, self._a.fingerprinter.identity)
        self._folder.write_rows(self._rows)
        steps = [row.step for row in self._rows.checkpoints]
        snapshots, states = needed_to_resume(steps, self._a.history.length)
        if self._config.snapshots.weights == "last":
            keep_only(self._folder.snapshots, snapshots)
        if self._config.snapshots.optimizer == "last":
            keep_only(self._folder.states, states)
        keep_only(self._folder.path / "shadow", states)

    def _resume(self) -> int:
        """Put back the newest whole state and everything that led to it; 0 where there is none."""
        try:
            rows = self._folder.read_rows()
        except Damaged as error:
            self._note(f"{error}; this seed begins again")
            return 0
        recorded = {row.step for row in rows.checkpoints}
        for step in reversed(snapshot_steps(self._folder.states)):
            if step not in recorded:
                continue
            try:
                self._restore(step, rows.until(step))
            except Damaged as error:
                self._note(f"{error}; going back to an earlier checkpoint")
                self._a.history.reset()
                continue
            self._note(f"going on from step {step}")
            return step
        if rows.checkpoints:
            self._note("no checkpoint is whole: beginning again")
            # A file that was read before a damaged one has changed the untrained state.
            fresh = build(self._config, self._a.seed, str(self._a.device), open_corpus(self._config))
            self._a.model.load_state_dict(fresh.model.state_dict())
            self._a.optimizer.state.clear()
            torch.manual_seed(self._a.seed)
            self._shadow = self._make_shadow()
        return 0

    def _restore(self, step: int, rows: Rows) -> None:
        length, steps = self._a.history.length, [row.step for row in rows.checkpoints]
        weights: dict[str, Tensor] = {}
        for earlier in steps[-length:]:
            weights = load_snapshot(self._folder.snapshots, earlier)
            self._a.history.push(earlier, [weights[name] for name in self._a.moved])
        fingerprints = self._read_fingerprints([row.step for row in rows.checkpoints])
        if self._shadow is not None:
            path = snapshot_path(self._folder.path / "shadow", step)
            load_state(path, self._shadow.model, self._shadow.optimizer)
        # Last, for it sets the random streams.
        state = snapshot_path(self._folder.states, step)
        load_state(state, self._a.model, self._a.optimizer, weights=weights)
        self._fingerprints = {at: value for at, value in fingerprints.items() if at <= step}
        self._rows = rows
        self._elapsed_s = rows.checkpoints[-1].elapsed_s

    def _read_fingerprints(self, steps: list[int]) -> dict[int, Tensor]:
        """The fingerprints so far; taken again from the snapshots where their file is damaged.

        Raises:
            Damaged: neither the file nor every snapshot is whole.
        """
        try:
            return self._folder.read_fingerprints()
        except Damaged as error:
            untrained = build(self._config, self._a.seed, str(self._a.device), open_corpus(self._config))
            found = {0: untrained.fingerprinter()}
            for step in steps:
                weights = load_snapshot(self._folder.snapshots, step)
                copy_(list(untrained.parameters.values()), [weights[name] for name in untrained.parameters])
                found[step] = untrained.fingerprinter()
            self._note(f"{error}; the fingerprints are taken again from the snapshots")
            return found

    def _make_shadow(self) -> Shadow | None:
        if not self._config.observe.lyapunov:
            return None
        epsilon = self._config.observe.lyapunov_epsilon
        return Shadow(self._a.model, self._a.make_optimizer, epsilon=epsilon, seed=self._a.seed)

    def _exponent(self) -> float | None:
        if self._shadow is None:
            return None
        return self._shadow.exponent(self._a.model, self._a.optimizer, self._config.observe.interval_steps)

    def _finish(self) -> None:
        write_json(self._folder.path / "done.json", {"steps": self._steps})
        self._tell(self._steps, "done")

    def _tell(self, step: int, phase: str, steps_per_s: float | None = None) -> None:
        last = self._rows.checkpoints[-1] if self._rows.checkpoints else None
        self._watcher(
            Progress(
                self._a.seed,
                step,
                self._steps,
                phase,
                loss=last.heldout_loss if last else None,
                similarity=last.similarity if last else None,
                regime=last.regime if last else None,
                steps_per_s=steps_per_s,
            )
        )

    def _note(self, text: str) -> None:
        step = self._rows.checkpoints[-1].step if self._rows.checkpoints else 0
        self._watcher(Progress(self._a.seed, step, self._steps, "note", note=text))
