"""One task after another, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from leapverify.runs import stopping
from leapverify.runs.failure import Failure, told_to_stop
from leapverify.runs.progress import Watcher
from leapverify.runs.task import Ended, Task, nobody


class InProcess:
    """The executor that starts nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        del error

    def run(self, tasks: Sequence[Task], watcher: Watcher, ended: Ended = nobody) -> dict[str, Failure]:
        """Every task, in their order."""
        failures = {}
        for task in tasks:
            failure = (
                told_to_stop(task.seed)
                if stopping.asked()
                else task.perform(lambda progress, task=task: watcher(task.labelled(progress)))  # type: ignore[misc]
            )
            if failure is not None:
                failures[task.key] = failure
            ended(task, failure)
        return failures
