"""Learning rates: looking ahead along a schedule without leaving a trace, and moving it on after a leap."""

from __future__ import annotations

import inspect
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

Undo = Callable[[], object]

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


def preview(schedulers: Sequence[Any], optimizers: Sequence[Any], count: int) -> list[list[list[float]]]:
    """The learning rates of the coming optimizer steps, found by stepping the schedulers and putting all of it back.

    Schedulers and parameter groups (rates, momenta, betas) are afterwards as they were. A scheduler that has to be
    told something at each step, such as ReduceLROnPlateau, is taken as constant, and so are the rates past the end of
    a schedule that has one (OneCycleLR). A scheduler is expected to move once an optimizer step.

    Args:
        schedulers: they are called after each optimizer step, and have been called after the last one; may be empty.
        optimizers: whose rates are asked for.
        count: steps, the present rate being that of the first.

    Returns:
        For each optimizer, for each of its groups, `count` rates.

    Raises:
        ValueError: count is negative.
    """
    if count < 0:
        raise ValueError(f"count = {count} steps cannot be looked at: give at least 0")
    groups = [unwrapped_optimizer(each).param_groups for each in optimizers]
    rates: list[list[list[float]]] = [[[] for _ in each] for each in groups]
    moving = [each for each in schedulers if _steps_alone(unwrapped(each))]
    with ExitStack() as undo:
        _remember([unwrapped(each) for each in moving], optimizers, undo)
        _silence_order_check(moving)
        for turn in range(count):
            if turn:
                moving = [each for each in moving if _turn(each)]
            for held, found in zip(groups, rates, strict=True):
                for group, column in zip(held, found, strict=True):
                    column.append(float(group["lr"]))
    return rates


def advance(schedulers: Sequence[Any], count: int) -> None:
    """Move the schedulers on by a number of optimizer steps for good; those that step on a metric stay.

    Args:
        schedulers: wrapped or not.
        count: K, optimizer steps.

    Raises:
        ValueError: a schedule ends before that; no scheduler is then moved.
    """
    left = steps_left(schedulers)
    if left is not None and count > left:
        raise ValueError(f"the schedule has {left} steps left and cannot advance by {count}: leap no further than that")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for scheduler in schedulers:
            inner = unwrapped(scheduler)
            for _ in range(count * _pace(scheduler) if _steps_alone(inner) else 0):
                inner.step()


def steps_left(schedulers: Sequence[Any]) -> int | None:
    """Optimizer steps that may follow before a scheduler refuses to go on (OneCycleLR does); None if none would."""
    left = [limit // _pace(each) for each in schedulers if (limit := _limit(unwrapped(each))) is not None]
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


def _steps_alone(scheduler: Any) -> bool:
    """Whether `step()` may be called without anything in it."""
    try:
        inspect.signature(scheduler.step).bind()
    except TypeError:
        return False
    return True


def _pace(scheduler: Any) -> int:
    """Scheduler steps that one optimizer step makes: accelerate makes one for each process unless batches are split."""
    if getattr(scheduler, "step_with_optimizer", False) and not getattr(scheduler, "split_batches", True):
        return int(sys.modules["accelerate.state"].AcceleratorState().num_processes)
    return 1


def _turn(scheduler: Any) -> bool:
    """Move one scheduler on by one optimizer step; False if its schedule is over."""
    inner = unwrapped(scheduler)
    try:
        for _ in range(_pace(scheduler)):
            inner.step()
    except ValueError:
        # What OneCycleLR raises past its end: the last rate stands.
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


def _remember(schedulers: Sequence[Any], optimizers: Sequence[Any], undo: ExitStack) -> None:
    """Register what puts schedulers and optimizers back, object by object, each to the very values it holds now."""
    seen: set[int] = set()
    for each in optimizers:
        optimizer = unwrapped_optimizer(each)
        _keep(vars(optimizer), dict(vars(optimizer)), undo)
        for group in optimizer.param_groups:
            _descend(group, undo, seen)
    for scheduler in schedulers:
        _descend(scheduler, undo, seen)


def _keep(held: dict[Any, Any], before: dict[Any, Any], undo: ExitStack) -> None:
    def restore() -> None:
        held.clear()
        held.update(before)

    undo.callback(restore)


def _descend(value: Any, undo: ExitStack, seen: set[int]) -> None:
    """Keep what lists, dicts, tensors, schedulers and callable objects hold; anything else is a value, or not ours."""
    if id(value) in seen or isinstance(value, nn.Parameter | nn.Module | Optimizer):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        content, data = value.detach().clone(), value.data
        undo.callback(lambda: data.copy_(content))
    elif isinstance(value, list | tuple):
        if isinstance(value, list):
            _keep_list(value, undo)
        for each in value:
            _descend(each, undo, seen)
    elif isinstance(value, dict):
        _keep(value, dict(value), undo)
        for name, each in value.items():
            if name != "params":
                _descend(each, undo, seen)
    elif _is_stateful(value):
        _descend(vars(value), undo, seen)


def _keep_list(held: list[Any], undo: ExitStack) -> None:
    before = list(held)

    def restore() -> None:
        held[:] = before

    undo.callback(restore)


def _is_stateful(value: Any) -> bool:
    """Schedulers and the callable objects that they read, such as a LambdaLR's; no classes, functions or modules."""
    if isinstance(value, type | types.ModuleType | types.FunctionType | types.MethodType | types.BuiltinFunctionType):
        return False
    return hasattr(value, "__dict__") and (callable(value) or callable(getattr(value, "step", None)))
