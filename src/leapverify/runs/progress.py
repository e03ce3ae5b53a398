"""What a running seed tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leapverify.config.study import StudyConfig


@dataclass(frozen=True, slots=True)
class Progress:
    """Where one seed stands."""

    seed: int
    step: int
    steps: int
    phase: str
    """waiting | train | checkpoint | note | done."""
    loss: float | None = None
    """Held-out loss at the last checkpoint, nats per token."""
    similarity: float | None = None
    regime: str | None = None
    steps_per_s: float | None = None
    note: str | None = None
    """Something the user should know, such as a damaged file that was refused."""
    study: str = ""
    """Which of several studies that run side by side; empty where there is one."""

    @property
    def whose(self) -> str:
        """The seed by its name."""
        return f"{self.study} seed {self.seed}" if self.study else f"seed {self.seed}"

    @property
    def reached(self) -> float:
        """How much of `steps` is done."""
        return self.step


Watcher = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """A watcher that does not look."""
    del progress


def say(watcher: Watcher, config: StudyConfig, text: str) -> None:
    """Tell a note of a study as a whole."""
    watcher(Progress(config.seeds[0], 0, config.training.steps, "note", note=text))


@dataclass(frozen=True, slots=True)
class RaceProgress(Progress):
    """Where one seed of a race stands: `step` of `steps` counts its training runs; `loss` is the last reported one."""

    stage: str = ""
    """tune | race."""
    what: str = ""
    """The run that is going on, or has just ended."""
    share: float = 0.0
    """Of that run's steps that are done."""

    @property
    def reached(self) -> float:
        """How much of `steps` is done, a part of the run that is going on included."""
        return self.step + self.share
