"""The sweep over snapshots that a study kept: the function that runs while training, the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from leapverify.config.overrides import load_config, with_settings
from leapverify.config.resolved import Resolved
from leapverify.config.study import StudyConfig
from leapverify.errors import Damaged
from leapverify.io.records import Checkpoint, Prediction
from leapverify.report import build_report
from leapverify.runs import AUTOMATIC, Execution, Failure, StudyError, Task, exclusive, require_leave
from leapverify.runs.driver import Runner, drive_one, seed_tasks
from leapverify.runs.environment import resolve_device, threads_of
from leapverify.runs.progress import Progress, Watcher, ignore
from leapverify.study.apparatus import Apparatus, build, open_corpus
from leapverify.study.folder import Rows, SeedFolder, Study
from leapverify.study.preflight import threads_of_seeds
from leapverify.study.replay import Replay
from leapverify.study.run_many import write_predictions
from leapverify.study.source import SeedTrajectory
from leapverify.study.sweep import Sweeper, SweepPoint
from leapverify.trajectory.history import OptimizerState
from leapverify.verify import recent_sigma


def sweep_study(
    path: Path | str,
    *,
    predictors: Sequence[str] | None = None,
    horizons: Sequence[int] | None = None,
    device: str = "auto",
    watcher: Watcher = ignore,
    execution: Execution = AUTOMATIC,
) -> Study:
    """Sweep a finished study again from its snapshots, write predictions.parquet anew and the report with it.

    Args:
        path: the run folder; its study must have kept its snapshots (snapshots.weights=all).
        predictors, horizons: instead of the study's.
        device: auto, cpu or cuda.
        watcher: is told how every seed gets on.
        execution: what runs the seeds.

    Raises:
        StudyError: the study kept no snapshots, or a seed failed.
        ValueError: unknown predictor, no run folder.
    """
    out, device = Path(path), resolve_device(device)
    config = load_config(out / "config.yaml")
    changes: dict[str, object] = {}
    if predictors:
        changes["sweep.predictors"] = list(predictors)
    if horizons:
        changes["sweep.horizons"] = list(horizons)
    asked = with_settings(config, changes)
    for seed in config.seeds:
        if not SeedFolder(out, seed).done:
            raise StudyError(f"seed {seed} of {out} has not finished: give its study command again first")
    job = _SweepJob(asked, out, threads_of_seeds(config, device, out))
    return drive_one(job, device=device, watcher=watcher, execution=execution)


class _SweepJob:
    """A study that is to be swept again, with the configuration to sweep it by."""

    def __init__(self, config: StudyConfig, out: Path, threads: int) -> None:
        self.out, self.seeds, self.threads = out, config.seeds, threads
        self._config = config

    def tasks(self, runner: Runner) -> list[Task]:
        """Every seed."""
        place = {"run": str(self.out), "device": runner.device, "threads": self.threads}
        arguments = {"config": self._config.model_dump(mode="json"), **place}
        return seed_tasks(self.seeds, "leapverify.study.entry:resweep", arguments, runner)

    def join(self, failures: Mapping[int, Failure]) -> None:
        """Join the rows of all seeds, and write the report; where one has failed, the earlier ones stay."""
        if not failures:
            write_predictions(self.out, [SeedFolder(self.out, seed).read_rows() for seed in self.seeds])
            build_report(self.out)

    def result(self) -> Study:
        """The study."""
        return Study(self.out)


def sweep_seed(watcher: Watcher, *, config: Resolved, run: Path, seed: int, device: str, threads: int) -> None:
    """Sweep one seed's snapshots and put the rows in the place of its earlier ones.

    Where a snapshot or its moments are missing or damaged, the earlier rows of that checkpoint stay, which is said.

    Raises:
        StudyError: the study did not keep its snapshots.
    """
    folder = SeedFolder(run, seed)
    rows = folder.read_rows()
    if config.snapshots.weights != "all":
        raise StudyError(
            f"{folder.snapshots} keeps the newest snapshots only: a study that is to be swept again must run with "
            "--set snapshots.weights=all"
        )
    with exclusive(folder.path), threads_of(threads):
        apparatus = build(config, seed, device, open_corpus(config))
        again = Resweep(apparatus, SeedTrajectory(folder, apparatus.parameters), rows, watcher)
        rows.predictions = [row for checkpoint in rows.checkpoints for row in again.checkpoint(checkpoint)]
        folder.write_rows(rows)
        watcher(Progress(seed, config.training.steps, config.training.steps, "done"))


class Resweep:
    """Goes over the snapshots of one seed, oldest first.

    Averages and early states follow from the snapshots. Single steps are taken again, from the state of the checkpoint
    before, where a predictor asks for them and that state was kept; and they count only if they lead to the snapshot.
    """

    def __init__(self, apparatus: Apparatus, source: SeedTrajectory, rows: Rows, watcher: Watcher) -> None:
        self._a, self._source, self._watcher = apparatus, source, watcher
        self._replay = Replay(apparatus, source)
        self._sweeper = Sweeper(
            list(apparatus.moved.values()), apparatus.history, apparatus.verifier, apparatus.config.sweep
        )
        self._earlier = {(row.step, row.predictor, row.horizon): row for row in rows.predictions}
        self._heldout: list[float] = []
        self._spoilt = 0
        """Checkpoints to come whose history would lack a damaged snapshot."""

    def checkpoint(self, row: Checkpoint) -> list[Prediction]:
        """The rows of one checkpoint."""
        require_leave(f"at step {row.step} of seed {row.seed}, whose earlier rows stay")
        a, steps = self._a, self._a.config.training.steps
        self._heldout.append(row.heldout_loss)
        weights = self._arrive(row.step)
        self._watcher(Progress(a.seed, row.step, steps, "checkpoint", row.heldout_loss, row.similarity, row.regime))
        spoilt, self._spoilt = self._spoilt > 0, max(0, self._spoilt - 1)
        swept = row.regime in a.config.sweep.regimes
        if weights is not None and (a.history.recent is not None or (swept and not spoilt)):
            a.history.optimizer = self._optimizer_state(row.step, weights)
        if not swept:
            return []
        if spoilt:
            return [found for key, found in self._earlier.items() if key[0] == row.step]
        sigma = recent_sigma(self._heldout, a.config.verify.sigma_window)
        found = self._sweeper.sweep(SweepPoint(a.seed, row.step, row.regime, a.verifier.measure(), sigma))
        return [self._better(one) for one in found]

    def _arrive(self, step: int) -> Mapping[str, Tensor] | None:
        """Put the snapshot of a step into model and history, and give it; None where it is damaged."""
        try:
            weights = self._source.weights(step)
        except Damaged as error:
            self._note(step, f"{error}; the earlier rows of the checkpoints that need it stay")
            self._spoilt = self._reach_of_damage()
            self._replay.at = None
            return None
        self._single_steps(step, weights)
        self._replay.put_in_weights(weights)
        self._replay.push(step)
        return weights

    def _reach_of_damage(self) -> int:
        """Checkpoints whose predictions read a missing snapshot: all that follow where averages or early states do."""
        history = self._a.history
        remembers = history.averages is not None or history.milestones is not None
        return len(self._a.config.checkpoint_steps) if remembers else history.length

    def _single_steps(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Take the steps from the checkpoint before to this one once more, if anyone asks for them one by one."""
        recent = self._a.history.recent
        if recent is None:
            return
        if self._replay.at is not None:
            self._replay.go_on(step)
            if self._replay.stands_at(weights):
                return
            self._note(step, f"the steps that lead to step {step} come out otherwise than they did: earlier rows stay")
        recent.reset()

    def _better(self, row: Prediction) -> Prediction:
        """The earlier row where this one declined only because moments or single steps were not kept."""
        recent = self._a.history.recent
        lacks = self._a.history.optimizer is None or (recent is not None and len(recent) < recent.length)
        earlier = self._earlier.get((row.step, row.predictor, row.horizon))
        return earlier if row.status == "declined" and lacks and earlier is not None else row

    def _optimizer_state(self, step: int, weights: Mapping[str, Tensor]) -> OptimizerState | None:
        """Adam's state at a step; None where it was not kept, and the predictors that need it decline."""
        if not self._source.holds_state(step):
            return None
        try:
            self._replay.put_in(step, weights)
        except Damaged as error:
            self._note(step, f"{error}; the earlier rows that need its moments stay")
            return None
        return self._a.optimizer_state(step)

    def _note(self, step: int, text: str) -> None:
        self._watcher(Progress(self._a.seed, step, self._a.config.training.steps, "note", note=text))
