"""A task: a call by import path with arguments that are plain data. And the protocol of what runs tasks."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

from leapverify.study.executor.failure import Deadline, Failure, failure_of
from leapverify.study.progress import Progress, Watcher

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
    deadline: Deadline = None
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
        return hashlib.sha256(json.dumps([self.work, self.arguments], sort_keys=True).encode()).hexdigest()

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


def by_seed(tasks: Sequence[Task], failures: Mapping[str, Failure]) -> dict[int, Failure]:
    """The failures by seed, where each seed has one task."""
    return {task.seed: failures[task.key] for task in tasks if task.key in failures}
