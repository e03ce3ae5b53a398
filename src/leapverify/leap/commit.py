"""What an accepted leap carries along: schedule and moments, on every rank or on none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from leapverify.core.ranks import Ranks
from leapverify.leap.config import LeapConfig
from leapverify.leap.live_weights import LiveWeights
from leapverify.leap.observer import Observer
from leapverify.leap.optimizers import reset_moments
from leapverify.leap.schedule.advance import ScheduleMove

SAMPLED = 4096
"""Elements of the weights that are compared around the first leap."""


@dataclass(frozen=True)
class FirstLeap:
    """The first leap of a run: the next optimizer step shows whether the optimizer undoes leaps."""

    before: Tensor
    """Some elements of theta_t."""
    after: Tensor
    """The same of theta_hat."""
    move: ScheduleMove | None
    """Takes the schedule's move back."""
    horizon: int
    saved: float
    """What the leap has saved, in the ledger's unit."""

    def was_undone(self, now: Sequence[Tensor], ranks: Ranks) -> bool:
        """Whether the weights after the next real step lie where they were before the leap, not where it led."""
        present = _sample(now)
        squares = torch.stack([(present - each).square().sum() for each in (self.before, self.after)])
        back, on = ranks.sum("the first leap", squares).sqrt().tolist()
        return bool(back < 0.1 * on)


def commit_leap(
    weights: LiveWeights,
    optimizers: Sequence[Optimizer],
    observer: Observer,
    config: LeapConfig,
    horizon: int,
    saved: float,
    *,
    first: bool,
) -> FirstLeap | None:
    """Move schedule and moments on with a leap of K steps, while the weights can still be put back.

    What may fail comes first, then one collective call: a failure on one rank before it is undone on all of them.
    Nothing after it can fail.

    Args:
        weights: they hold theta_hat; the newest snapshot is theta_t.
        optimizers: those of the run.
        observer: moves the schedule.
        config: says what becomes of schedule and moments.
        horizon: K, steps.
        saved: what the leap has saved, in the ledger's unit.
        first: whether it is the first leap of the run.

    Returns:
        Of the first leap, what the next step is compared with; None of a later one.

    Raises:
        Exception: whatever failed here, or on another rank; schedule and moments are then as they were.
    """
    with ExitStack() as undo:
        move = observer.advance(horizon) if config.schedule == "advance" else None
        if move is not None:
            undo.callback(observer.undo, move)
        samples = (_sample(weights.history[-1].tensors), _sample(weights.tensors)) if first else None
        if config.moments == "reset":
            reset_moments(optimizers, weights.whole, undo)
        weights.ranks.all_gather("a leap is committed", None)
        undo.pop_all()
    return None if samples is None else FirstLeap(*samples, move, horizon, saved)


def _sample(tensors: Sequence[Tensor]) -> Tensor:
    share = max(1, SAMPLED // max(1, len(tensors)))
    return torch.cat([each.detach().reshape(-1)[:share].double().cpu() for each in tensors])
