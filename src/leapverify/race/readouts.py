"""Readouts: what an arm does after each step, and of which weights its loss is reported.

Of a run that its readouts leave alone (averages, `anneal`) several can be taken at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leapverify.core.weights import copy_
from leapverify.race.averages import WeightAverage


@dataclass(frozen=True, slots=True)
class Bill:
    """What a readout has cost so far beside training, and what was done for it."""

    tokens: float = 0.0
    """Forward-token equivalents."""
    seconds: float = 0.0
    attempts: int = 0
    accepted: int = 0
    heldout_batches: int = 0


def _nothing(*_: Any) -> None:
    """Also for `weights`: those that the model holds."""


@dataclass(frozen=True, kw_only=True)
class Readout:
    """One way to look at a run, or to act on it. As it stands: the weights as they are, at no cost."""

    arm: str
    setting: str
    """As recorded."""
    after: Callable[[int], None] = _nothing
    """What follows real step `step`, from 1."""
    weights: Callable[[], Sequence[Tensor] | None] = _nothing
    """The weights of which the loss is reported; None: those that the model holds."""
    bill: Callable[[], Bill] = Bill
    """The costs so far."""
    leapt: Callable[[], int] = int
    """Steps leapt over so far."""
    close: Callable[[], None] = _nothing
    """Lets go of the model."""


def of_average(arm: str, setting: str, parameters: Sequence[Tensor], average: WeightAverage) -> Readout:
    """EMA, LAWA or Lookahead: no forward pass, so no tokens; the seconds are counted."""
    read = [torch.empty_like(each.detach()) for each in parameters]
    spent_s = [0.0]

    @contextmanager
    def counted() -> Iterator[None]:
        start = time.perf_counter()
        yield
        spent_s[0] += time.perf_counter() - start

    def after(step: int) -> None:
        with counted():
            average.after(step)

    def weights() -> Sequence[Tensor]:
        with counted():
            average.write(read)
        return read

    return Readout(arm=arm, setting=setting, after=after, weights=weights, bill=lambda: Bill(seconds=spent_s[0]))


def of_schedule_free(arm: str, setting: str, parameters: Sequence[Tensor], optimizer: Any) -> Readout:
    """The library's averaged point x; the optimizer stays at y, where it trains, bit by bit."""
    trained = [each.detach() for each in parameters]
    optimizer.train()

    def weights() -> Sequence[Tensor]:
        # The library's `train()` rounds on its way back from x: y is put back as it was.
        y = [each.clone() for each in trained]
        optimizer.eval()
        x = [each.clone() for each in trained]
        optimizer.train()
        copy_(trained, y)
        return x

    return Readout(arm=arm, setting=setting, weights=weights)


def of_leap(arm: str, setting: str, leap: Any, shares: int, annealed: Sequence[str] = ()) -> Readout:
    """The engine at work, billed by its own ledger.

    Args:
        arm: its name.
        setting: as recorded.
        leap: the engine.
        shares: draws of held-out data that are one batch; one for each rank.
        annealed: names of the parameters, where the loss of the annealed weights is reported (the raw ones where
            verification refused them).
    """

    def bill() -> Bill:
        report = leap.report()
        return Bill(
            tokens=float(report["overhead_tokens"]),
            seconds=float(report["overhead_s"]),
            attempts=int(report["attempts"]),
            accepted=int(report["accepted"]),
            heldout_batches=int(report["heldout_batches"]) // shares,
        )

    def weights() -> Sequence[Tensor]:
        found = leap.anneal().weights
        return [found[name] for name in annealed]

    return Readout(
        arm=arm,
        setting=setting,
        after=lambda _: leap.step(),
        weights=weights if annealed else _nothing,
        bill=bill,
        leapt=lambda: int(leap.leapt),
        close=leap.close,
    )
