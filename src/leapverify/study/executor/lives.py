"""How often a task whose worker died is begun again."""

from __future__ import annotations

import dataclasses
from collections import Counter

from leapverify.study.executor.failure import Failure
from leapverify.study.executor.task import Task
from leapverify.study.progress import Progress, Watcher

RESTARTS = 3
"""Deaths that a task survives without getting any further in between.

One may be somebody's kill, a second a node that goes down in stages, a third the memory that its neighbours took; a
task that then dies once more at the same place kills its workers itself. Each costs the work since the last state. One
that gets further each time may die any number of times, as on machines that are lent for hours."""


class Lives:
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
