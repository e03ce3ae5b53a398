"""Studies side by side: their seeds are one set of tasks; each study is joined as soon as its last seed has ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from leapverify.analysis.study.seeds import compare_seeds
from leapverify.config.overrides import identity_of
from leapverify.config.resolved import Resolved
from leapverify.config.study import StudyConfig
from leapverify.errors import ConfigError
from leapverify.io import records
from leapverify.io.manifest import Manifest, sweep_leftovers
from leapverify.io.records import CascadeLink, Checkpoint, LossPoint, Prediction, SeedMeasure
from leapverify.io.storage import Damaged, read_json, write_json
from leapverify.report import build_report
from leapverify.runs import Deadline, Execution, Failure, StudyError, Task, by_seed, exclusive
from leapverify.runs.driver import raise_failures, write_environment
from leapverify.runs.environment import describe, resolve_device
from leapverify.runs.progress import Progress, Watcher
from leapverify.runs.world import present
from leapverify.study import cascade, sweep
from leapverify.study.folder import CASCADES, CHECKPOINTS, CURVE, DONE, PREDICTIONS, SEEDS, Rows, SeedFolder, Study
from leapverify.study.preflight import claim, finished, rehearse, require_free, resolve_thresholds, threads_of_seeds


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


HELD_PATIENCE_S = 5.0
"""How long a study waits for its folder: another driver's workers may just be ending."""


def run_several(
    wanted: Mapping[str, tuple[StudyConfig, Path]],
    folder: Path,
    *,
    device: str,
    watcher: Watcher,
    deadline: Deadline | None,
    execution: Execution,
) -> dict[str, Study | StudyError | ConfigError]:
    """Run studies, or go on with them; those that are finished are read.

    Args:
        wanted: name -> configuration and run folder.
        folder: a run folder, or one in which all of them lie.
        device: auto, cpu or cuda.
        watcher: is told how every seed gets on.
        deadline: of all of them together.
        execution: what runs the seeds.

    Returns: name -> the study, or why it failed: one that cannot run must not cost the others.

    Raises:
        StudyError: another process holds the folder in which they lie, or there is no such Ray cluster.
    """
    device, found = resolve_device(device), dict[str, Study | StudyError | ConfigError]()
    opened: dict[str, _Opened] = {}
    for name, (config, out) in wanted.items():
        study = _Opened(name, config, out, device, watcher)
        try:
            if study.finished():
                found[name] = Study(out)
            else:
                opened[name] = study
        except (StudyError, ConfigError) as error:
            found[name] = error
    if opened:
        found |= _run(opened, folder, device, watcher, deadline, execution)
    return {name: found[name] for name in wanted}


def _run(
    opened: dict[str, _Opened],
    folder: Path,
    device: str,
    watcher: Watcher,
    deadline: Deadline | None,
    execution: Execution,
) -> dict[str, Study | StudyError | ConfigError]:
    seeds = sum(len(study.config.seeds) for study in opened.values())
    workers = execution.side_by_side(seeds, max(study.threads for study in opened.values()), device)
    found: dict[str, Study | StudyError | ConfigError] = {}
    owners: dict[str, _Opened] = {}

    def ended(task: Task, failure: Failure | None) -> None:
        study = owners[task.key]
        if study.ended(task, failure):
            found[study.name] = study.finish()

    with execution.open(folder, workers) as executor, ExitStack() as held:
        if all(study.out != folder for study in opened.values()):
            held.enter_context(exclusive(folder, patience_s=HELD_PATIENCE_S))
        for name, study in opened.items():
            try:
                held.enter_context(exclusive(study.out, patience_s=HELD_PATIENCE_S))
                tasks = study.prepare(workers, deadline)
            except (StudyError, ConfigError) as error:
                found[name] = error
                continue
            owners |= {task.key: study for task in tasks}
            if not tasks:
                found[name] = study.finish()
        executor.run([task for study in opened.values() for task in study.tasks], watcher, ended)
    return found


class _Opened:
    """A study that is to be run.

    Args:
        name: among several; empty for one alone.
        config: what it is.
        out: its run folder.
        device: cpu or cuda.
        watcher: is told how every seed gets on.
    """

    def __init__(self, name: str, config: StudyConfig, out: Path, device: str, watcher: Watcher) -> None:
        self.name, self.config, self.out = name, config, out
        self.resolved = Resolved.of(config)
        self.threads = threads_of_seeds(config, device, out)
        self.tasks: list[Task] = []
        self._device, self._failures, self._left = device, dict[str, Failure](), set[str]()
        self._watcher: Watcher = (
            (lambda progress: watcher(dataclasses.replace(progress, study=name))) if name else watcher
        )

    def finished(self) -> bool:
        """Whether nothing is left to do; otherwise everything has been looked at that can be wrong with it.

        Raises:
            ConfigError: wrong settings, or the folder holds something else.
        """
        require_free(self.config, self.out, self._watcher)
        if finished(self.config, self.out):
            return True
        rehearse(self.resolved)
        return False

    def prepare(self, workers: int, deadline: Deadline | None) -> list[Task]:
        """Settle what the seeds need in the folder, which is held; their tasks.

        Raises:
            ConfigError: it does not fit into memory.
        """
        from leapverify.capacity.plan import plan_of, say_plan
        from leapverify.study.apparatus import parameters_of
        from leapverify.study.parallel import parallel_of

        config, resolved, out = self.config, self.resolved, self.out
        # Not of the seeds that go on, which each sweep their own, nor of other runs that lie here.
        for place in (out, out / "tables", out / "figures"):
            sweep_leftovers(place, below=False)
        for folder in (SeedFolder(out, seed) for seed in config.seeds):
            if folder.done:
                sweep_leftovers(folder.path)
        self._manifest = Manifest(out)
        claim(config, out)
        plan = plan_of(resolved, self._device, workers)
        say_plan(plan, resolved, out, self._watcher)
        machine = describe(self._device, threads=self.threads, workers=workers)
        ranks = present()
        spread = {} if ranks.alone else {"ranks": ranks.size, "parallel": parallel_of(resolved, ranks)}
        said = {**spread, "parameters": parameters_of(resolved), "config_sha256": identity_of(config)}
        write_environment(config, out, {**machine, **said}, self._watcher)
        arguments = {
            "config": config.model_dump(mode="json"),
            "thresholds": resolve_thresholds(resolved, out, self._watcher).to_dict(),
            "run": str(out),
            "device": self._device,
            "threads": self.threads,
            "overlap": plan is not None and plan.overlaps,
        }
        steps = config.training.steps
        self.tasks = [
            Task(
                seed,
                "leapverify.study.entry:record",
                {**arguments, "seed": seed},
                deadline=deadline,
                study=self.name,
                threads=self.threads,
                gpus=int(self._device == "cuda"),
            )
            for seed in config.seeds
            if not whole(SeedFolder(out, seed), steps, self._watcher)
        ]
        self._left = {task.key for task in self.tasks}
        return self.tasks

    def ended(self, task: Task, failure: Failure | None) -> bool:
        """Take note of a seed that has ended; whether it was the last."""
        self._left.discard(task.key)
        if failure is not None:
            self._failures[task.key] = failure
        return not self._left

    def finish(self) -> Study | StudyError | ConfigError:
        """Join the records of the seeds that are whole, and write the report."""
        failures = by_seed(self.tasks, self._failures)
        complete = [seed for seed in self.config.seeds if seed not in failures]
        if complete:
            join_records(self.out, complete)
            build_report(self.out)
        try:
            raise_failures(failures)
        except (StudyError, ConfigError) as error:
            return error
        self._manifest.write()
        write_json(self.out / DONE, {"seeds": list(self.config.seeds), "steps": self.config.training.steps})
        return Study(self.out)
