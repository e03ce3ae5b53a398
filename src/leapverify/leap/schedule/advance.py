"""Learning rates: looking ahead along a schedule without leaving a trace, and moving it on after a leap."""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from leapverify.leap.schedule.undo import GroupUndo, register_undo

FALL = 0.9
"""A rate that is to fall below this share of itself over the next interval is in its decay."""
LOW = 0.3
"""A rate below this share of the highest one, and not rising, is in its decay."""


def unwrapped(scheduler: Any) -> Any:
    """The scheduler itself, where a framework has put a wrapper with a `scheduler` attribute around it (accelerate)."""
    while hasattr(scheduler, "scheduler"):
        scheduler = scheduler.scheduler
    return scheduler


def unwrapped_optimizer(optimizer: Any) -> Any:
    """The optimizer itself, where a framework has put a wrapper with an `optimizer` attribute around it."""
    while hasattr(getattr(optimizer, "optimizer", None), "param_groups"):
        optimizer = optimizer.optimizer
    return optimizer


def check_scheduler(scheduler: Any, optimizers: Sequence[Any]) -> None:
    """Refuse what is no scheduler, and a scheduler that sets the rates of another optimizer.

    Args:
        scheduler: a scheduler of torch or of its form, wrapped or not.
        optimizers: the optimizers that train the model, wrapped or not.

    Raises:
        ValueError: it has no `step`, or its `optimizer` is none of those given.
    """
    inner = unwrapped(scheduler)
    name = type(inner).__name__
    if isinstance(inner, type) or not callable(getattr(inner, "step", None)):
        raise ValueError(f"scheduler {inner!r} has no step(): pass the scheduler object, or leave it out")
    bound = unwrapped_optimizer(getattr(inner, "optimizer", None))
    if bound is not None and not any(bound is unwrapped_optimizer(each) for each in optimizers):
        raise ValueError(
            f"the scheduler ({name}) is bound to another optimizer ({type(bound).__name__}) than the one given: "
            "make it from the optimizer that trains the model, or pass that optimizer too"
        )


class Ahead(NamedTuple):
    """What looking ahead along a schedule has found."""

    rates: list[list[list[float]]]
    """For each optimizer, for each of its groups, the rates of the coming steps."""
    end: int | None
    """Optimizer steps that may follow before a scheduler refuses to go on; None if none did as far as was looked."""


def look_ahead(schedulers: Sequence[Any], optimizers: Sequence[Any], count: int) -> Ahead:
    """The learning rates of the coming optimizer steps, found by stepping the schedulers and putting all of it back.

    Schedulers and parameter groups (rates, momenta, betas) are afterwards as they were. A scheduler that has to be
    told something at each step, such as ReduceLROnPlateau, is taken as constant. A schedule is over where a scheduler
    refuses to go on, with whatever error, or gives what is no number: OneCycleLR does past its steps, a LambdaLR that
    reads a table past the table; the last rate stands from there on. A scheduler is expected to move once an
    optimizer step.

    Args:
        schedulers: they are called after each optimizer step, and have been called after the last one; may be empty.
        optimizers: whose rates are asked for.
        count: steps, the present rate being that of the first.

    Raises:
        ValueError: count is negative.
    """
    if count < 0:
        raise ValueError(f"count = {count} steps cannot be looked at: give at least 0")
    held = [unwrapped_optimizer(each) for each in optimizers]
    moving = movable(schedulers)
    rows: list[list[float]] = []
    end: int | None = None
    with ExitStack() as undo:
        register_undo([unwrapped(each) for each in moving], held, undo)
        _silence_order_check(moving)
        for turn in range(count):
            going = [each for each in moving if _turn(each)] if turn else moving
            row = _numbers(held) if turn else _rates(held)
            if end is None and (row is None or len(going) < len(moving)):
                end = turn - 1
            moving = going
            if row is None:
                rows += rows[-1:] * (count - len(rows))
                break
            rows.append(row)
    columns = iter(zip(*rows, strict=True))
    return Ahead([[list(next(columns, ())) for _ in each.param_groups] for each in held], end)


class ScheduleMove:
    """Schedulers that were moved on, and the way back.

    Args:
        schedulers: those that are about to be moved, wrapped or not.
        optimizers: whose rates, momenta or betas they set.
    """

    def __init__(self, schedulers: Sequence[Any], optimizers: Sequence[Any]) -> None:
        self._schedulers, self._back = list(schedulers), ExitStack()
        groups = [group for each in optimizers for group in unwrapped_optimizer(each).param_groups]
        self._groups = [GroupUndo(group) for group in groups]
        self._counts: list[int | None] = []
        register_undo([unwrapped(each) for each in schedulers], [], self._back)

    def close(self) -> None:
        """The move is over: what changes from now on is not of it."""
        self._counts = [count_of(each) for each in self._schedulers]
        for each in self._groups:
            each.close()

    def undo(self, since: int = 0) -> None:
        """Put schedulers and groups back to where they would be without the move; a second call does nothing.

        Where schedulers were stepped after the move, they are stepped as often from where they were before it.

        Args:
            since: optimizer steps after the move; only schedulers that keep no count of their own need to be told.
        """
        made = [
            since * steps_per_update(each) if now is None or then is None else now - then
            for each, then, now in zip(self._schedulers, self._counts, map(count_of, self._schedulers), strict=True)
        ]
        schedulers, groups = self._schedulers, self._groups
        self._schedulers, self._groups, self._counts = [], [], []
        self._back.close()
        for entries in groups:
            entries.restore()
        _step(schedulers, made)


def advance(schedulers: Sequence[Any], optimizers: Sequence[Any], count: int) -> ScheduleMove:
    """Move the schedulers on by a number of optimizer steps; those that step on a metric stay.

    Args:
        schedulers: wrapped or not.
        optimizers: whose rates they set, wrapped or not.
        count: K, optimizer steps.

    Returns:
        What takes the move back.

    Raises:
        ValueError: a schedule ends before that.
        Exception: whatever a scheduler raises on its way. After any error schedulers and groups are as they were.
    """
    left = steps_left(schedulers)
    if left is not None and count > left:
        raise ValueError(f"the schedule has {left} steps left and cannot advance by {count}: leap no further than that")
    moving = movable(schedulers)
    moved = ScheduleMove(moving, optimizers)
    with ExitStack() as undo:
        register_undo([unwrapped(each) for each in moving], [unwrapped_optimizer(each) for each in optimizers], undo)
        _step(moving, [count * steps_per_update(each) for each in moving])
        moved.close()
        undo.pop_all()
    return moved


def steps_left(schedulers: Sequence[Any]) -> int | None:
    """Optimizer steps that may follow before a scheduler refuses to go on (OneCycleLR does); None if none would."""
    left = [limit // steps_per_update(each) for each in schedulers if (limit := _limit(unwrapped(each))) is not None]
    return min(left, default=None)


def decaying(now_lr: float, ahead_lr: float, highest_lr: float) -> bool:
    """Whether a rate is in its final decay; warm-up is not.

    Args:
        now_lr: rate of the next step.
        ahead_lr: rate one interval later.
        highest_lr: highest rate of the run so far.

    Returns:
        True if it falls by more than a tenth over the interval, or is below three tenths of the highest and not rising.
    """
    return ahead_lr < FALL * now_lr or (now_lr < LOW * highest_lr and ahead_lr <= now_lr)


def movable(schedulers: Sequence[Any]) -> list[Any]:
    """The schedulers whose `step()` may be called without anything in it."""
    return [each for each in schedulers if _steps_alone(unwrapped(each))]


def count_of(scheduler: Any) -> int | None:
    """How often a scheduler has been stepped, by its own count or that of the first one inside; None if it has none."""
    inner = unwrapped(scheduler)
    count = getattr(inner, "last_epoch", None)
    if isinstance(count, int):
        return count
    return next((count_of(each) for each in getattr(inner, "_schedulers", ())), None)


def _steps_alone(scheduler: Any) -> bool:
    try:
        inspect.signature(scheduler.step).bind()
    except TypeError:
        return False
    return True


def _rates(optimizers: Sequence[Any]) -> list[float]:
    return [float(group["lr"]) for each in optimizers for group in each.param_groups]


def _numbers(optimizers: Sequence[Any]) -> list[float] | None:
    """The rates; None where one is no number: a power of what is negative past the end of a schedule is complex."""
    try:
        found = _rates(optimizers)
    except (TypeError, ValueError):
        return None
    return found if all(map(math.isfinite, found)) else None


def _step(schedulers: Sequence[Any], counts: Sequence[int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for turn in range(max(counts, default=0)):  # in turns, as a loop does: two may set the rates of one optimizer
            for scheduler, count in zip(schedulers, counts, strict=True):
                if turn < count:
                    unwrapped(scheduler).step()


def steps_per_update(scheduler: Any) -> int:
    """Scheduler steps that one optimizer step makes: accelerate makes one for each process unless batches are split."""
    if getattr(scheduler, "step_with_optimizer", False) and not getattr(scheduler, "split_batches", True):
        return int(sys.modules["accelerate.state"].AcceleratorState().num_processes)
    return 1


def _turn(scheduler: Any) -> bool:
    """Move one scheduler on by one optimizer step; False if its schedule is over."""
    inner = unwrapped(scheduler)
    try:
        for _ in range(steps_per_update(scheduler)):
            inner.step()
    except Exception:
        # OneCycleLR raises a ValueError past its end, a function of the user's whatever it likes: the last rate stands.
        return False
    return True


def _limit(scheduler: Any) -> int | None:
    total, done = getattr(scheduler, "total_steps", None), getattr(scheduler, "last_epoch", None)
    own = [max(0, total - done)] if isinstance(total, int) and isinstance(done, int) else []
    inner = [_limit(each) for each in _children(scheduler)]
    return min([*own, *(each for each in inner if each is not None)], default=None)


def _children(scheduler: Any) -> Sequence[Any]:
    """The schedulers inside a ChainedScheduler, and the one of a SequentialLR whose turn it is."""
    inner = getattr(scheduler, "_schedulers", ())
    milestones = getattr(scheduler, "_milestones", None)
    if milestones is None:
        return inner
    return inner[sum(scheduler.last_epoch >= each for each in milestones) :][:1]


def _silence_order_check(schedulers: Sequence[Any]) -> None:
    # At its first step a scheduler warns if the optimizer has not stepped. Filtering warnings instead would make every
    # warning of the user's that is shown once be shown again at each checkpoint.
    for scheduler in schedulers:
        for each in _family(unwrapped(scheduler)):
            if getattr(each, "_step_count", None) == 1:
                each._step_count = 2


def _family(scheduler: Any) -> Iterator[Any]:
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from _family(inner)
