"""What a running seed tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


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


Watcher = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """A watcher that does not look."""
    del progress
