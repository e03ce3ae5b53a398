"""What the engine holds together: all that trying takes, and the first leap until it has lasted a step."""

from __future__ import annotations

from dataclasses import dataclass, field

from leapverify.leap.attempt import Attempter, Unit
from leapverify.leap.optimizers import Sample
from leapverify.leap.policy import Policy
from leapverify.leap.schedule import Moved
from leapverify.leap.shadow import Waiting


@dataclass
class Trial:
    """What trying takes: a policy that proposes and an attempter that judges."""

    policy: Policy
    attempter: Attempter
    unit: Unit
    waiting: Waiting = field(default_factory=Waiting)


@dataclass(frozen=True)
class First:
    """The first leap, and what takes it back should the optimizer undo it."""

    sample: Sample
    moved: Moved | None
    horizon: int
    saved: float
