"""Workers that are found by the folders that they hold, and killed; and tables that are compared byte by byte."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from leapverify.config.overrides import with_settings
from leapverify.config.presets import preset
from leapverify.config.study import StudyConfig
from leapverify.runs.progress import Progress
from micro import MICRO

TIMED = {"costs.csv", "costs.md"}
"""Tables of seconds."""


def two_small_seeds(text: Path) -> StudyConfig:
    """A study of two seeds, three checkpoints each."""
    settings = {**MICRO, "data.source": f"text:{text}", "seeds": [42, 43], "training.steps": 30}
    return with_settings(
        preset("tiny"), {**settings, "sweep.predictors": ["linear", "adam"], "sweep.horizons": [5, 10]}
    )


def holders(lock: Path) -> list[int]:
    """The other processes that have a file open."""
    found = []
    for place in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            if any(os.path.realpath(link) == str(lock.resolve()) for link in place.iterdir()):
                found.append(int(place.parent.name))
    return [pid for pid in found if pid != os.getpid()]


class Killer:
    """A watcher that kills the worker of each seed when it tells of a step, once."""

    def __init__(self, run: Path, at_step: int) -> None:
        self._run, self._at_step = run, at_step
        self.killed: set[int] = set()
        self.notes: list[str] = []

    def __call__(self, progress: Progress) -> None:
        if progress.note:
            self.notes.append(progress.note)
        if (progress.phase, progress.step) != ("checkpoint", self._at_step) or progress.seed in self.killed:
            return
        for pid in holders(self._run / f"seed-{progress.seed}" / ".lock"):
            os.kill(pid, signal.SIGKILL)
            self.killed.add(progress.seed)


def same_tables(one: Path, other: Path) -> None:
    """Two run folders have the same tables, byte by byte, but for seconds."""
    names = [{path.name for path in (run / "tables").iterdir()} - TIMED for run in (one, other)]
    assert names[0] == names[1] != set()
    for name in names[0]:
        assert (one / "tables" / name).read_bytes() == (other / "tables" / name).read_bytes(), name
