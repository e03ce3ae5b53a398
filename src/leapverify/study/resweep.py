"""The sweep over snapshots that a study kept: the function that runs while training, the same numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from leapverify.history import OptimizerState
from leapverify.records import Prediction
from leapverify.report import build_report
from leapverify.storage import Damaged
from leapverify.study.config import StudyConfig
from leapverify.study.environment import resolve_device
from leapverify.study.executor import StudyError, Task, exclusive, run_tasks
from leapverify.study.folder import Rows, SeedFolder, Study
from leapverify.study.progress import Progress, Watcher, ignore
from leapverify.study.run import layout, write_predictions
from leapverify.study.settings import effective, load_config, with_settings
from leapverify.study.setup import Apparatus, build, open_corpus, threads_of
from leapverify.study.sweep import Sweeper, SweepPoint
from leapverify.train.state import load_snapshot, load_state, snapshot_path, snapshot_steps
from leapverify.verify import recent_sigma
from leapverify.weights import copy_


def sweep_study(
    path: Path | str,
    *,
    predictors: Sequence[str] | None = None,
    horizons: Sequence[int] | None = None,
    device: str = "auto",
    watcher: Watcher = ignore,
) -> Study:
    """Sweep a finished study again from its snapshots, write predictions.parquet anew and the report with it.

    Args:
        path: the run folder; its study must have kept its snapshots (snapshots.weights=all).
        predictors, horizons: instead of the study's.
        device: auto, cpu or cuda.
        watcher: is told how every seed gets on.

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
    with exclusive(out, patience_s=5.0):
        workers, threads = layout(config, device)
        arguments = {"config": asked, "run": out, "device": device, "threads": threads}
        tasks = [Task(seed, sweep_seed, {**arguments, "seed": seed}) for seed in config.seeds]
        failures = run_tasks(tasks, workers=workers, watcher=watcher)
        if failures:
            raise StudyError("; ".join(f"seed {seed}: {message}" for seed, message in failures.items()))
        write_predictions(out, [SeedFolder(out, seed).read_rows() for seed in config.seeds])
        build_report(out)
    return Study(out)


def sweep_seed(watcher: Watcher, *, config: StudyConfig, run: Path, seed: int, device: str, threads: int) -> None:
    """Sweep one seed's snapshots and put the rows in the place of its earlier ones.

    Raises:
        StudyError: the study did not keep its snapshots.
    """
    folder = SeedFolder(run, seed)
    rows = folder.read_rows()
    kept = set(snapshot_steps(folder.snapshots))
    missing = [row.step for row in rows.checkpoints if row.step not in kept]
    if missing:
        raise StudyError(
            f"{folder.snapshots} has no snapshot of step {missing[0]}: only a study that ran with "
            "--set snapshots.weights=all can be swept again"
        )
    config = effective(config)
    with exclusive(folder.path), threads_of(threads):
        apparatus = build(config, seed, device, open_corpus(config))
        rows.predictions = [row for found in _swept(apparatus, folder, rows, watcher) for row in found]
        folder.write_rows(rows)
        watcher(Progress(seed, config.training.steps, config.training.steps, "done"))


def _swept(a: Apparatus, folder: SeedFolder, rows: Rows, watcher: Watcher) -> Iterator[list[Prediction]]:
    tensors = list(a.moved.values())
    sweeper = Sweeper(tensors, a.history, a.verifier, a.config.sweep)
    heldout: list[float] = []
    for row in rows.checkpoints:
        heldout.append(row.heldout_loss)
        try:
            weights = load_snapshot(folder.snapshots, row.step)
        except Damaged as error:
            note = f"{error}; this checkpoint is left out"
            watcher(Progress(a.seed, row.step, a.config.training.steps, "note", note=note))
            continue
        copy_(list(a.parameters.values()), [weights[name] for name in a.parameters])
        a.history.push(row.step, tensors)
        a.history.optimizer = _optimizer_state(a, folder, row.step, weights, watcher)
        if row.regime in a.config.sweep.regimes:
            sigma = recent_sigma(heldout, a.config.verify.sigma_window)
            yield sweeper.sweep(SweepPoint(a.seed, row.step, row.regime, a.verifier.measure(), sigma))
        watcher(
            Progress(
                a.seed, row.step, a.config.training.steps, "checkpoint", row.heldout_loss, row.similarity, row.regime
            )
        )


def _optimizer_state(
    a: Apparatus, folder: SeedFolder, step: int, weights: Mapping[str, Tensor], watcher: Watcher
) -> OptimizerState | None:
    """Adam's state at a step; None, and the predictors that need it decline, where it was not kept."""
    path = snapshot_path(folder.states, step)
    if not path.is_file():
        return None
    try:
        load_state(path, a.model, a.optimizer, weights=weights)
    except Damaged as error:
        watcher(Progress(a.seed, step, a.config.training.steps, "note", note=f"{error}; its moments are left out"))
        return None
    return a.optimizer_state(step)
