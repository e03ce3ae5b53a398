"""How every laboratory drives its work: the folder held, tasks run, records joined, the manifest written last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from leapverify.errors import ConfigError, Damaged, Paused, StudyError
from leapverify.io.manifest import Manifest, sweep_leftovers
from leapverify.io.storage import read_json, write_json
from leapverify.runs.environment import describe
from leapverify.runs.executors import Execution
from leapverify.runs.failure import Failure
from leapverify.runs.lock import exclusive
from leapverify.runs.progress import Watcher
from leapverify.runs.task import Executor, Task, by_seed
from leapverify.runs.world import present

HELD_PATIENCE_S = 5.0
"""How long a driver waits for its folder: another driver's workers may just be ending."""

Made = TypeVar("Made")
Made_co = TypeVar("Made_co", covariant=True)


@dataclass(frozen=True)
class Runner:
    """What runs the tasks of a job, while its folder is held."""

    executor: Executor
    watcher: Watcher
    device: str
    """cpu or cuda."""
    workers: int
    """Tasks at a time, at most."""

    def run(self, tasks: Sequence[Task]) -> dict[int, Failure]:
        """Run tasks, one a seed; the failures by seed."""
        return by_seed(tasks, self.executor.run(tasks, self.watcher))

    def environment(self, threads: int, parallel: str = "none") -> dict[str, Any]:
        """This machine, and over how many ranks a model is spread.

        Args:
            threads: CPU threads of each task.
            parallel: how several ranks hold a model.
        """
        ranks = present()
        spread = {} if ranks.alone else {"ranks": ranks.size, "parallel": parallel}
        return {**describe(self.device, threads=threads, workers=self.workers), **spread}


class Job(Protocol[Made_co]):
    """What a laboratory does in one run folder. The driver calls `tasks`, `join` and `result`, in this order."""

    @property
    def out(self) -> Path:
        """The run folder."""

    @property
    def seeds(self) -> Sequence[int]:
        """There is at most one task at a time for each."""

    @property
    def threads(self) -> int:
        """CPU threads of each task."""

    def tasks(self, runner: Runner) -> Sequence[Task]:
        """Settle in the folder, which is held, what the tasks need. Earlier rounds of tasks may be run right here.

        Returns: the last round.

        Raises:
            StudyError, ConfigError: the job cannot be done.
        """

    def join(self, failures: Mapping[int, Failure]) -> None:
        """Join what the seeds without a failure have left in the folder, and write the report."""

    def result(self) -> Made_co:
        """What the job gives; called when every task has done its work and the manifest is written."""


def seed_tasks(
    seeds: Sequence[int],
    work: str,
    arguments: Mapping[str, Any],
    runner: Runner,
    **more: Any,
) -> list[Task]:
    """One task for each seed, which becomes the argument `seed`.

    Args:
        seeds: of the tasks.
        work: `module:function`.
        arguments: the same for all seeds, with `threads`.
        runner: runs them.
        more: further fields of `Task`.
    """
    gpus, threads = int(runner.device == "cuda"), arguments["threads"]
    return [Task(seed, work, {**arguments, "seed": seed}, threads=threads, gpus=gpus, **more) for seed in seeds]


def drive(
    jobs: Mapping[str, Job[Made]], folder: Path, *, device: str, watcher: Watcher, execution: Execution
) -> dict[str, Made | StudyError | ConfigError]:
    """Do jobs side by side: their tasks are one set, and each job is joined as soon as its last task has ended.

    Args:
        jobs: by name.
        folder: a job's run folder, or one in which all of them lie.
        device: cpu or cuda.
        watcher: is told how every seed gets on.
        execution: what runs the tasks.

    Returns: name -> what the job gives, or why it failed: one that fails must not cost the others.

    Raises:
        StudyError: another process holds the folder in which they lie, or there is no such Ray cluster.
    """
    workers = execution.side_by_side(
        sum(len(job.seeds) for job in jobs.values()), max(job.threads for job in jobs.values()), device
    )
    found: dict[str, Made | StudyError | ConfigError] = {}
    owners: dict[str, _Held[Made]] = {}
    tasks: list[Task] = []

    def ended(task: Task, failure: Failure | None) -> None:
        held = owners[task.key]
        if held.ended(task, failure):
            found[held.name] = held.finish()

    with execution.open(folder, workers) as executor, ExitStack() as locks:
        runner = Runner(executor, watcher, device, workers)
        if all(job.out != folder for job in jobs.values()):
            locks.enter_context(exclusive(folder, patience_s=HELD_PATIENCE_S))
        for name, job in jobs.items():
            try:
                locks.enter_context(exclusive(job.out, patience_s=HELD_PATIENCE_S))
                held = _Held(name, job, runner)
            except (StudyError, ConfigError) as error:
                found[name] = error
                continue
            owners |= {task.key: held for task in held.tasks}
            tasks += held.tasks
            if not held.tasks:
                found[name] = held.finish()
        executor.run(tasks, watcher, ended)
    return found


def drive_one(job: Job[Made], *, device: str, watcher: Watcher, execution: Execution) -> Made:
    """Do one job.

    Returns: what it gives.

    Raises:
        StudyError, ConfigError: why it failed.
    """
    found = drive({"": job}, job.out, device=device, watcher=watcher, execution=execution)[""]
    if isinstance(found, StudyError | ConfigError):
        raise found
    return found


class _Held(Generic[Made]):
    """A job whose folder is held."""

    def __init__(self, name: str, job: Job[Made], runner: Runner) -> None:
        self.name, self._job = name, job
        # Not of the seeds that go on, which each sweep their own, nor of other runs that lie here.
        for place in (job.out, job.out / "tables", job.out / "figures"):
            sweep_leftovers(place, below=False)
        self._manifest = Manifest(job.out)
        self.tasks = list(job.tasks(runner))
        self._left = {task.key for task in self.tasks}
        self._failures: dict[str, Failure] = {}

    def ended(self, task: Task, failure: Failure | None) -> bool:
        """Take note of a task that has ended; whether it was the last."""
        self._left.discard(task.key)
        if failure is not None:
            self._failures[task.key] = failure
        return not self._left

    def finish(self) -> Made | StudyError | ConfigError:
        """Join what there is; the job's result, or why it failed."""
        failures = by_seed(self.tasks, self._failures)
        self._job.join(failures)
        try:
            raise_failures(failures)
        except (StudyError, ConfigError) as error:
            return error
        self._manifest.write()
        return self._job.result()


@contextmanager
def rewriting(folder: Path) -> Iterator[None]:
    """Hold a run folder while files in it are written anew; its manifest follows where the block succeeds.

    Raises:
        StudyError: another process holds the folder.
    """
    with exclusive(folder, patience_s=HELD_PATIENCE_S):
        manifest = Manifest(folder)
        yield
        manifest.write()


def raise_failures(failures: Mapping[int, Failure]) -> None:
    """Say which seeds failed and why.

    Raises:
        ConfigError: all of them for wrong use.
        Paused: all of them because their time was over.
        StudyError: any of them for another reason.
    """
    if not failures:
        return
    if all(failure.paused for failure in failures.values()):
        raise Paused(str(next(iter(failures.values()))))
    text = "; ".join(f"seed {seed}: {failure}" for seed, failure in failures.items())
    raise ConfigError(text) if all(failure.wrong_use for failure in failures.values()) else StudyError(text)


def other_configuration(out: Path, kind: str, differences: Sequence[str], to_delete: Path | str) -> ConfigError:
    """The error of a run folder whose records were made with other settings."""
    listed = "; ".join([*differences[:3], *(["..."] if len(differences) > 3 else [])])
    return ConfigError(
        f"{out} holds a {kind} with another configuration ({listed}): name another --out, or delete {to_delete}"
    )


def require_empty(out: Path, lacks: str) -> None:
    """Refuse a file, or a folder with anything in it that is not hidden.

    Args:
        out: need not be there.
        lacks: completes `holds`, such as `no study`.

    Raises:
        ConfigError: it is one.
    """
    if out.exists() and (not out.is_dir() or any(not item.name.startswith(".") for item in out.iterdir())):
        raise ConfigError(f"{out} is not empty and holds {lacks}: name another --out")


def read_environment(path: Path) -> dict[str, Any]:
    """An environment.json; empty where there is none or it is damaged: it can be made again."""
    try:
        found = read_json(path)
    except Damaged:
        return {}
    return found if isinstance(found, dict) else {}


def write_environment(path: Path, machine: dict[str, Any], note: Callable[[str], None]) -> None:
    """Write what a run is on. What it began on stays; other machines on which it goes on are listed.

    Args:
        path: environment.json.
        machine: see `Runner.environment`.
        note: is told if the file that is there is damaged.
    """
    first = read_environment(path)
    if path.is_file() and not first:
        note(f"{path} is damaged: what this machine is takes its place")
    if first:
        same = {key: machine.get(key) for key in ("device", "cpu", "gpu", "versions", "ranks", "parallel")}
        if {key: first.get(key) for key in same} == same:
            return
        first.setdefault("continued_on", []).append(machine)
        machine = first
    write_json(path, machine)
