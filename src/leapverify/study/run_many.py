"""Studies side by side: their seeds are one set of tasks; each study is joined as soon as its last seed has ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from leapverify.analysis.study.seeds import compare_seeds
from leapverify.config.overrides import identity_of
from leapverify.config.resolved import Resolved
from leapverify.config.study import StudyConfig
from leapverify.errors import ConfigError, Damaged
from leapverify.io import records
from leapverify.io.manifest import sweep_leftovers
from leapverify.io.records import CascadeLink, Checkpoint, LossPoint, Prediction, SeedMeasure
from leapverify.io.storage import read_json, write_json
from leapverify.report import build_report
from leapverify.runs import AUTOMATIC, Deadline, Execution, Failure, Paused, StudyError, Task
from leapverify.runs.driver import Runner, drive, seed_tasks, write_environment
from leapverify.runs.environment import resolve_device
from leapverify.runs.progress import Progress, Watcher, say
from leapverify.runs.world import present
from leapverify.study import cascade, sweep
from leapverify.study.folder import CASCADES, CHECKPOINTS, CURVE, DONE, PREDICTIONS, SEEDS, Rows, SeedFolder, Study
from leapverify.study.preflight import (
    finished,
    rehearse,
    require_free,
    resolve_thresholds,
    take_folder,
    threads_of_seeds,
)


def join_records(out: Path, seeds: Sequence[int]) -> None:
    """Join the seeds' records, fill in what only their future tells, and compare the seeds."""
    parts = [SeedFolder(out, seed).read_rows() for seed in seeds]
    checkpoints = [row for part in parts for row in part.checkpoints]
    records.write(out / CHECKPOINTS, Checkpoint, checkpoints)
    records.write(out / CURVE, LossPoint, [row for part in parts for row in part.curve])
    write_predictions(out, parts)
    links = [row for part in parts for row in cascade.complete(part.cascades, part.curve)]
    records.write(out / CASCADES, CascadeLink, links)
    fingerprints = {
        seed: {step: value.numpy() for step, value in SeedFolder(out, seed).read_fingerprints().items()}
        for seed in seeds
    }
    records.write(out / SEEDS, SeedMeasure, compare_seeds(checkpoints, fingerprints))


def write_predictions(out: Path, parts: Sequence[Rows]) -> None:
    """Write the sweep's rows of all seeds, completed from each seed's own loss curve."""
    rows = [row for part in parts for row in sweep.complete(part.predictions, part.curve)]
    records.write(out / PREDICTIONS, Prediction, rows)


def whole(folder: SeedFolder, steps: int, watcher: Watcher) -> bool:
    """Whether a seed has finished and its records are whole; a damaged one is opened again."""
    if not folder.done:
        return False
    try:
        read_json(folder.path / DONE)
        folder.read_rows()
        folder.read_fingerprints()
    except Damaged as error:
        watcher(Progress(folder.seed, 0, steps, "note", note=str(error)))
        (folder.path / DONE).unlink()
        return False
    watcher(Progress(folder.seed, steps, steps, "done"))
    return True


def run_many(
    wanted: Mapping[str, tuple[StudyConfig, Path]],
    folder: Path,
    *,
    device: str,
    watcher: Watcher,
    deadline: Deadline | None = None,
    execution: Execution = AUTOMATIC,
) -> dict[str, Study | StudyError | ConfigError]:
    """Run studies, or go on with them; those that are finished are read.

    The seeds of all of them are one set of tasks: no worker waits for the end of a study.

    Args:
        wanted: name -> configuration and run folder.
        folder: a run folder, or one in which all of them lie.
        device: auto, cpu or cuda.
        watcher: is told how every seed gets on.
        deadline: of all of them together.
        execution: what runs the seeds.

    Returns: name -> the study, or why it failed: one that cannot run must not cost the others.

    Raises:
        Paused: the deadline passed; the same call goes on.
        StudyError: another process holds the folder in which they lie, or there is no such Ray cluster.
    """
    device, found = resolve_device(device), dict[str, Study | StudyError | ConfigError]()
    jobs: dict[str, _StudyJob] = {}
    for name, (config, out) in wanted.items():
        job = _StudyJob(name, config, out, device, watcher, deadline)
        try:
            if job.finished():
                found[name] = Study(out)
            else:
                jobs[name] = job
        except (StudyError, ConfigError) as error:
            found[name] = error
    if jobs:
        found |= drive(jobs, folder, device=device, watcher=watcher, execution=execution)
    for study in found.values():
        if isinstance(study, Paused):
            raise study
    return {name: found[name] for name in wanted}


class _StudyJob:
    """A study that is to be run.

    Args:
        name: among several; empty for one alone.
        config: what it is.
        out: its run folder.
        device: cpu or cuda.
        watcher: is told how every seed gets on.
        deadline: after which its seeds stop.
    """

    def __init__(
        self, name: str, config: StudyConfig, out: Path, device: str, watcher: Watcher, deadline: Deadline | None
    ) -> None:
        self.out, self.seeds, self.threads = out, config.seeds, threads_of_seeds(config, device, out)
        self._name, self._config, self._deadline = name, config, deadline
        self._resolved = Resolved.of(config)
        self._watcher: Watcher = (
            (lambda progress: watcher(dataclasses.replace(progress, study=name))) if name else watcher
        )

    def finished(self) -> bool:
        """Whether nothing is left to do; otherwise everything has been looked at that can be wrong with it.

        Raises:
            ConfigError: wrong settings, or the folder holds something else.
        """
        require_free(self._config, self.out, self._watcher)
        if finished(self._config, self.out):
            return True
        rehearse(self._resolved)
        return False

    def tasks(self, runner: Runner) -> list[Task]:
        """Those of the seeds that are not whole.

        Raises:
            ConfigError: it does not fit into memory.
        """
        from leapverify.capacity.plan import plan_of, say_plan

        config, resolved, out = self._config, self._resolved, self.out
        for folder in (SeedFolder(out, seed) for seed in config.seeds):
            if folder.done:
                sweep_leftovers(folder.path)
        take_folder(config, out)
        plan = plan_of(resolved, runner.device, runner.workers)
        say_plan(plan, resolved, out, self._watcher)
        self._write_environment(runner)
        arguments = {
            "config": config.model_dump(mode="json"),
            "thresholds": resolve_thresholds(resolved, out, self._watcher).to_dict(),
            "run": str(out),
            "device": runner.device,
            "threads": self.threads,
            "overlap": plan is not None and plan.overlaps,
        }
        left = [seed for seed in config.seeds if not whole(SeedFolder(out, seed), config.training.steps, self._watcher)]
        more = {"deadline": self._deadline, "study": self._name}
        return seed_tasks(left, "leapverify.study.entry:record", arguments, runner, **more)

    def _write_environment(self, runner: Runner) -> None:
        from leapverify.study.apparatus import parameters_of
        from leapverify.study.parallel import parallel_of

        config = self._config
        machine = {
            **runner.environment(self.threads, parallel_of(self._resolved, present())),
            "parameters": parameters_of(self._resolved),
            "config_sha256": identity_of(config),
        }
        write_environment(self.out / "environment.json", machine, lambda text: say(self._watcher, config, text))

    def join(self, failures: Mapping[int, Failure]) -> None:
        """Join the records of the seeds that are whole, and write the report."""
        complete = [seed for seed in self.seeds if seed not in failures]
        if complete:
            join_records(self.out, complete)
            build_report(self.out)

    def result(self) -> Study:
        """The finished study."""
        write_json(self.out / DONE, {"seeds": list(self.seeds), "steps": self._config.training.steps})
        return Study(self.out)
