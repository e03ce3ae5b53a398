"""What a running race tells whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass

from leapverify.study.progress import Progress


@dataclass(frozen=True, slots=True)
class RaceProgress(Progress):
    """Where one seed of a race stands: `step` of `steps` counts its training runs; `loss` is the last reported one."""

    stage: str = ""
    """tune | race."""
    what: str = ""
    """The run that is going on, or has just ended."""
    share: float = 0.0
    """Of that run's steps that are done."""
