"""One task after another, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from leapverify.runs.failure import Failure
from leapverify.runs.progress import Watcher
from leapverify.runs.task import Ended, Task, nobody, one_by_one


class InProcess:
    """The executor that starts nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        del error

    def run(self, tasks: Sequence[Task], watcher: Watcher, ended: Ended = nobody) -> dict[str, Failure]:
        """Every task, in their order."""
        return one_by_one(tasks, lambda task: task.perform(task.labels(watcher)), ended)
