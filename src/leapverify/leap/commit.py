"""What an accepted leap carries along: schedule, moments and counts, all of it on every rank or none of it on any."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from leapverify.leap.attempt import Attempt
from leapverify.leap.optimizers import Sample, reset_moments
from leapverify.leap.policy.base import Proposal

if TYPE_CHECKING:
    from leapverify.leap.engine import Engine
from dataclasses import dataclass, field

from leapverify.leap.attempt import Attempter, Unit
from leapverify.leap.policy.base import Policy
from leapverify.leap.schedule.advance import Moved
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


def settle(engine: Engine, proposal: Proposal, attempt: Attempt) -> bool:
    """Carry an accepted leap out: schedule, moments and counts while the weights can still be put back.

    What may fail comes first; then the ranks meet, and what fails on one of them before that is undone on all. What
    comes after the meeting cannot fail.

    Returns:
        Whether the weights stay.
    """
    if engine.options.mode != "live":
        return False
    sample = Sample(engine.trajectory.history[-1].tensors) if engine.accepted == 0 else None
    with ExitStack() as undo:
        moved = engine.observer.advance(proposal.horizon) if engine.options.schedule == "advance" else None
        if moved is not None:
            undo.callback(engine.observer.undo, moved)
        if sample is not None:
            sample.leapt(engine.trajectory.tensors)
        if engine.options.moments == "reset":
            reset_moments(engine.optimizers, engine.trajectory.whole, undo)
        engine.ranks.all_gather("a leap is settled", None)
        undo.pop_all()
    saved = min(attempt.steps_credit or 0.0, proposal.horizon) * engine.ledger.step_cost
    engine.leapt += proposal.horizon
    engine.ledger.saved += saved
    if sample is not None:
        engine.first = First(sample, moved, proposal.horizon, saved)
    return True


def check_first_leap(engine: Engine) -> None:
    """After the first real step that follows the first leap: whether the optimizer has undone it.

    Raises:
        ValueError: it has.
    """
    first, engine.first = engine.first, None
    if first is not None and first.sample.undone(engine.trajectory.tensors, engine.ranks):
        if first.moved is not None:
            engine.observer.undo(first.moved, engine.since_leap)
        engine.leapt -= first.horizon
        engine.ledger.saved -= first.saved
        names = ", ".join(type(each).__name__ for each in engine.optimizers)
        raise ValueError(
            f"{names} put the weights back where they were before the leap: it steps on copies of its own, which "
            "leaping cannot reach; use mode='shadow'"
        )
