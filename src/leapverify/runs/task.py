"""A task: a call by import path with arguments that are plain data. And the protocol of what runs tasks."""

from __future__ import annotations

import dataclasses
import importlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

from leapverify.io.checksum import json_sha256
from leapverify.runs import stopping
from leapverify.runs.deadline import Deadline
from leapverify.runs.failure import Failure, failure_of, told_to_stop
from leapverify.runs.progress import Progress, Watcher

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One call of `work(watcher, **arguments)`, which leaves its result in the run folder and returns nothing.

    It is idempotent: what lies there already is not made again, and it goes on from the last state that does. So a task
    whose worker died is simply run again, wherever, and two tasks with the same key do the same.
    """

    seed: int
    """Whose work it is, in what is told of it."""
    work: str
    """`module:function`."""
    arguments: Mapping[str, Any]
    """JSON: numbers, texts, lists and mappings; paths as texts, never tensors."""
    deadline: Deadline | None = None
    """Passed on as the argument `deadline`, where there is one: it decides when a task stops, not what it makes."""
    study: str = ""
    """The study that it belongs to, where several run side by side."""
    threads: int = 1
    """CPU threads that it computes with."""
    gpus: int = 0
    """GPUs that it has to itself."""

    @property
    def key(self) -> str:
        """The sha256 of what decides its result, in hexadecimal."""
        return json_sha256([self.work, self.arguments])

    def call(self, watcher: Watcher) -> None:
        """Do the work in this process."""
        module, _, name = self.work.partition(":")
        options = {} if self.deadline is None else {"deadline": self.deadline}
        getattr(importlib.import_module(module), name)(watcher, **self.arguments, **options)

    def perform(self, watcher: Watcher) -> Failure | None:
        """Do the work in this process; why it failed, if it did."""
        try:
            self.call(watcher)
        except Exception as error:
            logger.debug("seed %d failed", self.seed, exc_info=True)
            return failure_of(error)
        return None

    def labelled(self, progress: Progress) -> Progress:
        """What it tells, with the study that it belongs to."""
        return dataclasses.replace(progress, study=self.study) if self.study else progress

    def labels(self, watcher: Watcher) -> Watcher:
        """A watcher that passes on what it tells, labelled."""
        return lambda progress: watcher(self.labelled(progress))


Ended: TypeAlias = Callable[[Task, Failure | None], None]
"""Is told of every task that has ended, in the order in which they do."""


def nobody(task: Task, failure: Failure | None) -> None:
    """Is told, and does nothing."""
    del task, failure


class Executor(Protocol):
    """Runs tasks; a context in which its workers live."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *error: object) -> None:
        """End the workers."""

    def run(self, tasks: Sequence[Task], watcher: Watcher, ended: Ended = nobody) -> dict[str, Failure]:
        """Run every task, in any order.

        Args:
            tasks: with different keys.
            watcher: is told how they get on, in this process.
            ended: is told of each that has ended, in this process.

        Returns: key -> failure of the tasks that failed; the others have done their work.
        """


class Failures(dict[str, Failure]):
    """Key -> failure of the tasks that failed.

    Args:
        ended: is told of every task.
    """

    def __init__(self, ended: Ended) -> None:
        super().__init__()
        self._ended = ended

    def end(self, task: Task, failure: Failure | None) -> None:
        """Take note of a task that has ended."""
        if failure is not None:
            self[task.key] = failure
        self._ended(task, failure)


def one_by_one(tasks: Sequence[Task], do: Callable[[Task], Failure | None], ended: Ended) -> Failures:
    """Do tasks in their order; those that come after this process was told to stop are not begun."""
    failures = Failures(ended)
    for task in tasks:
        failures.end(task, told_to_stop(task.seed) if stopping.asked() else do(task))
    return failures


def by_seed(tasks: Sequence[Task], failures: Mapping[str, Failure]) -> dict[int, Failure]:
    """The failures by seed, where each seed has one task."""
    return {task.seed: failures[task.key] for task in tasks if task.key in failures}


RESTARTS = 3
"""Deaths that a task survives without getting any further in between.

One may be somebody's kill, a second a node that goes down in stages, a third the memory that its neighbours took; a
task that then dies once more at the same place kills its workers itself. Each costs the work since the last state. One
that gets further each time may die any number of times, as on machines that are lent for hours."""


class RetryBudget:
    """Keeps count of the deaths of workers, and passes on what the tasks tell.

    Args:
        watcher: of whoever asked for the tasks.
    """

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._deaths: Counter[str] = Counter()
        self._furthest: Counter[str] = Counter()
        self._latest: dict[str, Progress] = {}

    def tell(self, task: Task, progress: Progress) -> None:
        """Pass on how a task gets on."""
        if progress.phase in ("checkpoint", "unit") and progress.step > self._furthest[task.key]:
            self._furthest[task.key] = progress.step
            self._deaths[task.key] = 0
        self._latest[task.key] = progress
        self._watcher(task.labelled(progress))

    def after_death(self, task: Task, how: str) -> Failure | None:
        """None where the task is to be begun again, which is said; otherwise why not.

        Args:
            task: whose worker ended without a word.
            how: what is known of its end, such as `signal 9`.
        """
        self._deaths[task.key] += 1
        count = self._deaths[task.key]
        if count > RESTARTS:
            remedy = "if memory ran out, lower training.batch_size or run fewer side by side with --workers"
            return Failure(
                f"its worker ended without a word {count} times at the same place ({how}): {remedy}", wrong_use=False
            )
        note = f"its worker ended without a word ({how}): begun again from its last state, {count} of {RESTARTS} times"
        latest = self._latest.get(task.key, Progress(task.seed, 0, 1, "note"))
        self._watcher(task.labelled(dataclasses.replace(latest, phase="note", note=note)))
        return None
