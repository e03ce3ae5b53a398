"""The training of one seed with everything that is measured on the way (SPEC 6.1), resumable at every checkpoint."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from leapverify.config.resolved import SAMPLED, Resolved
from leapverify.core.collective import on_all_ranks, on_rank0
from leapverify.io.manifest import sweep_leftovers
from leapverify.io.records import Checkpoint, LossPoint
from leapverify.io.storage import write_json
from leapverify.landscape.lyapunov import Shadow
from leapverify.observe import Thresholds, classify_regimes, loss_curvature, similarity, straightness
from leapverify.observe.similarity import Kind
from leapverify.runs import Deadline, Paused, StudyError, exclusive, require_leave, stopping
from leapverify.runs.environment import threads_of
from leapverify.runs.progress import Progress, Watcher
from leapverify.runs.world import present
from leapverify.study.apparatus import Apparatus, build, open_corpus
from leapverify.study.cascade import Cascader, Start
from leapverify.study.checkpointing import Saver
from leapverify.study.clock import PARTS, Clock
from leapverify.study.folder import Rows, SeedFolder
from leapverify.study.parallel import shards_of
from leapverify.study.sweep import Sweeper, SweepPoint
from leapverify.train.sharded_folder import sweep_parts
from leapverify.train.update_survival import Survival, UpdateSample
from leapverify.verify import Passes, recent_sigma

logger = logging.getLogger(__name__)

SIMILARITIES: tuple[Kind, ...] = ("concatenated", "per-probe", "centred")
REPORT_EVERY_STEPS = 20
"""How often a watcher hears of a seed between checkpoints."""


def record_seed(
    watcher: Watcher,
    *,
    config: Resolved,
    thresholds: Thresholds,
    seed: int,
    run: Path,
    device: str,
    threads: int,
    deadline: Deadline | None = None,
    overlap: bool = False,
) -> None:
    """Train one seed to its end, from where an earlier call stopped.

    Raises:
        StudyError: the loss is no number any more, or another study holds the folder.
        Paused: the deadline passed; the seed goes on from there when it is called again.
        ValueError: text, tokenizer or model cannot be had.
    """
    folder, ranks = SeedFolder(run, seed), present()
    with contextlib.ExitStack() as held, threads_of(threads):
        if on_rank0(ranks, "open the seed", partial(_opened, folder, held)):
            watcher(Progress(seed, config.training.steps, config.training.steps, "done"))
            return
        on_all_ranks(ranks, "time left", partial(require_time, deadline, seed))
        apparatus = build(config, seed, device, open_corpus(config), ranks)
        Recorder(apparatus, thresholds, folder, watcher, deadline, overlap=overlap).run()


def _opened(folder: SeedFolder, held: contextlib.ExitStack) -> bool:
    """Hold the folder, without what a killed writer left there; whether nothing is left to do."""
    held.enter_context(exclusive(folder.path))
    if not folder.done:
        sweep_leftovers(folder.path)
        sweep_parts(folder.path)
    return folder.done


def require_time(deadline: Deadline | None, seed: int, step: int | None = None) -> None:
    """Stop a seed that stands where it can go on, once its time is over or its process was told to stop.

    Args:
        deadline: when that is.
        seed: which.
        step: where it stands; None: it has not been looked at in this call.

    Raises:
        Paused: it is.
    """
    where = f"before seed {seed} went on" if step is None else f"at step {step} of seed {seed}"
    require_leave(where)
    if deadline is not None and time.monotonic() > deadline:
        raise Paused(f"its time is over {where}: give the same command again to go on")


class Recorder:
    """Trains, observes, sweeps and saves one seed."""

    def __init__(
        self,
        apparatus: Apparatus,
        thresholds: Thresholds,
        folder: SeedFolder,
        watcher: Watcher,
        deadline: Deadline | None = None,
        *,
        overlap: bool = False,
    ) -> None:
        self._a, self._thresholds, self._folder, self._watcher = apparatus, thresholds, folder, watcher
        self._deadline, self._overlap = deadline, overlap
        self._config = apparatus.config
        self._steps = self._config.training.steps
        self._tensors = apparatus.tensors
        self._rows = Rows.empty()
        self._fingerprints: dict[int, Tensor] = {}
        self._clock = Clock(apparatus.device)
        self._elapsed_s = 0.0
        self._sent: dict[int, Passes] = {}
        """Forward passes of the loss curve since the last checkpoint, by step."""
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
            restorer=self._sweeper.restorer,
        )
        self._curve_at = self._config.curve_steps
        trained = list(apparatus.parameters.values())
        shards = shards_of(trained, apparatus.ranks)
        self._sample = UpdateSample(apparatus.optimizer, trained, elements=SAMPLED, seed=apparatus.seed, shards=shards)
        self._shadow = self._make_shadow()
        self._saver = self._make_saver()

    def run(self) -> None:
        """Every step from the last whole state to the end."""
        start = self._resume()
        self._clock.start(self._elapsed_s)
        with self._saver:
            self._train(start)
        self._finish()

    def _train(self, start: int) -> None:
        interval = self._config.observe.interval_steps
        losses = torch.zeros((), device=self._a.device)
        for step in range(start + 1, self._steps + 1):
            losses += self._step(step)
            with self._clock.part("sweep") if self._a.history.recent is not None else contextlib.nullcontext():
                self._a.after_step(step)
            if step in self._curve_at and step % interval:
                with self._clock.part("evaluate"):
                    self._sent[step] = self._a.verifier.send()
            if step % interval == 0:
                # Asked once: what comes while the checkpoint is being made is for the next one.
                stop = self._a.ranks.any("told to stop", stopping.asked())
                self._checkpoint(step, float(losses) / interval, stop)
                losses.zero_()
                if step < self._steps and (stop or self._saver.holds_state(step // interval)):
                    on_all_ranks(self._a.ranks, "time left", partial(require_time, self._deadline, self._a.seed, step))
            elif step % REPORT_EVERY_STEPS == 0:
                self._tell(step, "train")

    def _step(self, step: int) -> Tensor:
        a, rate, batch = self._a, self._a.schedule(step), self._a.batch(step)
        if self._shadow is not None:
            with self._clock.part("lyapunov"):
                self._shadow.step_with(lambda model, optimizer: a.step(model, optimizer, batch, rate))
        leads_to_a_checkpoint = step % self._config.observe.interval_steps == 0
        with self._clock.part("train"), self._sample if leads_to_a_checkpoint else contextlib.nullcontext():
            return a.step(a.model, a.optimizer, batch, rate)

    def _checkpoint(self, step: int, train_loss: float, stop: bool) -> None:
        train_loss = self._a.ranks.broadcast("training loss", train_loss)
        if not math.isfinite(train_loss):
            raise StudyError(
                f"the training loss is {train_loss} between steps {step - self._config.observe.interval_steps} and "
                f"{step}: lower training.lr (now {self._config.training.lr:g}); the checkpoints before are kept"
            )
        with self._clock.part("observe"):
            similarities = self._observe(step)
            survival = self._sample.read()
        with self._clock.part("evaluate"):
            self._fetch_curve()
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
            self._saver.save(step, step // self._config.observe.interval_steps, stop=stop)
        self._rows.checkpoints.append(
            self._row(step, regime, similarities, train_loss, now.loss, val_loss, exponent, heldout, survival)
        )
        speed = self._config.observe.interval_steps / max(self._clock["train"], 1e-9)
        # The seconds of writing this row can only stand in the next one.
        self._clock.next_interval()
        with self._clock.part("snapshot"):
            self._saver.commit(self._rows, self._fingerprints)
        self._tell(step, "checkpoint", speed)

    def _fetch_curve(self) -> None:
        """The losses since the last checkpoint, for which nobody has waited so far."""
        losses = self._a.verifier.losses_of(list(self._sent.values()))
        self._rows.curve += [LossPoint(self._a.seed, *point) for point in zip(self._sent, losses, strict=True)]
        self._sent.clear()

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
        survival: Survival,
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
            update_survival=survival.share,
            update_projection=survival.projection,
            **{f"{part}_s": self._clock[part] for part in PARTS},
        )

    def _straightness(self) -> float | None:
        history = self._a.history
        if len(history) < 3:
            return None
        return straightness(history[-1].tensors, history[-2].tensors, history[-3].tensors, shards=history.shards)

    def _resume(self) -> int:
        """Stand where an earlier call stopped; the step, 0 at the beginning."""
        found = self._saver.resume()
        if found is None:
            self._fingerprints[0] = self._a.fingerprinter()
            self._a.after_step(0)
            self._shadow = self._make_shadow()
            self._saver = self._make_saver()
            return 0
        self._rows, self._fingerprints, self._elapsed_s = found.rows, found.fingerprints, found.elapsed_s
        return found.step

    def _make_saver(self) -> Saver:
        return Saver(self._a, self._folder, self._shadow, self._note, overlap=self._overlap)

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
        on_rank0(self._a.ranks, "done", lambda: write_json(self._folder.path / "done.json", {"steps": self._steps}))
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
