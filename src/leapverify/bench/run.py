"""The bench of a recorded study: seeds side by side, their rows joined, the report written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leapverify.bench.options import BenchChoice, BenchOptions, choose, chosen_seeds, configured, task_of
from leapverify.bench.results import join, take_folder
from leapverify.config.overrides import load_config
from leapverify.config.study import StudyConfig
from leapverify.report import build_report
from leapverify.runs import AUTOMATIC, Deadline, Execution, Failure, StudyError, Task
from leapverify.runs.driver import Runner, drive_one, seed_tasks
from leapverify.runs.environment import resolve_device
from leapverify.runs.progress import Watcher, ignore
from leapverify.study.folder import SeedFolder
from leapverify.study.preflight import threads_of_seeds
from leapverify.study.run import deadline_of


def bench_predictors(
    path: Path | str,
    *,
    predictors: Sequence[str] | None = None,
    horizons: Sequence[int] | None = None,
    persist_every: int = 1,
    seeds: Sequence[int] | None = None,
    nino: Path | None = None,
    device: str = "auto",
    watcher: Watcher = ignore,
    minutes: float | None = None,
    execution: Execution = AUTOMATIC,
) -> BenchChoice:
    """Bench predictors on a finished study that kept its snapshots, or go on with a bench that was stopped.

    At every checkpoint, whatever its regime: each predictor x K verified by every criterion, what it costs, and what is
    left of its gain after as many real steps as lie between checkpoints. Rows that are there already stay.

    Args:
        path: the run folder.
        predictors: names; None or ["all"]: the whole catalogue.
        horizons: K, steps; None: the study's.
        persist_every: persistence is measured at every so many-th checkpoint.
        seeds: of the study's; None: all.
        nino: folder of the published NiNo checkpoints.
        device: auto, cpu or cuda.
        watcher: is told how every seed gets on.
        minutes: after so many every seed stops at its next checkpoint; None: it runs to its end.
        execution: what runs the seeds.

    Returns: what was benched, and what was left out.

    Raises:
        ConfigError: wrong use, or rows there that were made otherwise.
        StudyError: the study is not finished or kept too little, or a seed failed; what it had is kept.
        Paused: the minutes are over; the same call goes on.
        ValueError: an unknown predictor, no run folder.
    """
    run, device = Path(path), resolve_device(device)
    config = load_config(run / "config.yaml")
    choice = choose(predictors, nino)
    options = BenchOptions(choice.labels, tuple(horizons or config.sweep.horizons), persist_every)
    _ = configured(config, options)
    chosen = chosen_seeds(config, seeds)
    deadline = deadline_of(config, minutes)
    _require_kept(run, config, chosen)
    job = _BenchJob(config, options, choice, run, chosen, threads_of_seeds(config, device, run), deadline)
    return drive_one(job, device=device, watcher=watcher, execution=execution)


@dataclass(frozen=True)
class _BenchJob:
    """A bench of a study's run folder."""

    config: StudyConfig
    options: BenchOptions
    choice: BenchChoice
    out: Path
    seeds: Sequence[int]
    threads: int
    deadline: Deadline | None

    def tasks(self, runner: Runner) -> list[Task]:
        """Every chosen seed.

        Raises:
            ConfigError: rows lie there that were made otherwise.
        """
        take_folder(self.out, self._about(runner.environment(self.threads)))
        arguments = {
            "config": self.config.model_dump(mode="json"),
            "options": self.options.to_dict(),
            "run": str(self.out),
            "device": runner.device,
            "threads": self.threads,
        }
        return seed_tasks(self.seeds, "leapverify.bench.entry:bench", arguments, runner, deadline=self.deadline)

    def join(self, failures: Mapping[int, Failure]) -> None:
        """Join whatever is whole of any seed, and write the report."""
        del failures
        if join(self.out, {seed: SeedFolder(self.out, seed).read_rows() for seed in self.config.seeds}):
            build_report(self.out)

    def result(self) -> BenchChoice:
        """What was benched, and what was left out."""
        return self.choice

    def _about(self, environment: dict[str, Any]) -> dict[str, Any]:
        """What stands in bench.json before the first row."""
        return {
            "task": task_of(self.config),
            "preset": self.config.preset,
            "predictors": list(self.options.labels),
            "horizons": list(self.options.horizons),
            "persist_every": self.options.persist_every,
            "persist_steps": self.config.observe.interval_steps,
            "files": self.choice.files,
            "left_out": dict(self.choice.left_out),
            "environment": environment,
        }


def _require_kept(run: Path, config: StudyConfig, seeds: Sequence[int]) -> None:
    """Refuse a study that cannot be gone along again.

    Raises:
        StudyError: it kept too little, or a seed has not finished.
    """
    kept = config.snapshots
    if (kept.weights, kept.optimizer) != ("all", "all"):
        raise StudyError(
            f"{run} kept snapshots.weights={kept.weights} and snapshots.optimizer={kept.optimizer}: a study that is to "
            "be benched must run with both set to all"
        )
    for seed in seeds:
        if not SeedFolder(run, seed).done:
            raise StudyError(f"seed {seed} of {run} has not finished: give its study command again first")
