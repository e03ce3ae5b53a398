"""What an arm does beside the training step: what follows each step, and of which weights the loss is reported.

Of a run that is not touched by it (averages, `anneal`) several readings can be taken at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leapverify.core.weights import copy_
from leapverify.race.averages import Average


@dataclass(frozen=True, slots=True)
class Bill:
    """What a reading has cost so far beside training, and what was done for it."""

    tokens: float = 0.0
    """Forward-token equivalents."""
    seconds: float = 0.0
    attempts: int = 0
    accepted: int = 0
    heldout_batches: int = 0


class Reading:
    """One way to look at a run, or to act on it; this one does nothing and takes the weights as they are.

    Args:
        arm: its name.
        setting: as recorded.
    """

    def __init__(self, arm: str, setting: str) -> None:
        self.arm, self.setting = arm, setting

    @property
    def leapt(self) -> int:
        """Steps leapt over so far."""
        return 0

    def after(self, step: int) -> None:
        """What follows real step `step`, from 1."""

    def weights(self) -> Sequence[Tensor] | None:
        """The weights of which the loss is reported; None: those that the model holds."""
        return None

    def bill(self) -> Bill:
        """The costs so far."""
        return Bill()

    def close(self) -> None:
        """Let go of the model."""


class Averaged(Reading):
    """EMA, LAWA or Lookahead: no forward pass, so no tokens; the seconds are counted."""

    def __init__(self, arm: str, setting: str, parameters: Sequence[Tensor], average: Average) -> None:
        super().__init__(arm, setting)
        self._average = average
        self._read = [torch.empty_like(each.detach()) for each in parameters]
        self._seconds = 0.0

    def after(self, step: int) -> None:
        """Let the average follow."""
        with self._counted():
            self._average.after(step)

    def weights(self) -> Sequence[Tensor]:
        """The averaged weights."""
        with self._counted():
            self._average.write(self._read)
        return self._read

    def bill(self) -> Bill:
        """Seconds alone."""
        return Bill(seconds=self._seconds)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start


class ScheduleFree(Reading):
    """The library's averaged point x, part of the optimizer's step; it stays at y, where it trains, bit by bit."""

    def __init__(self, arm: str, setting: str, parameters: Sequence[Tensor], optimizer: Any) -> None:
        super().__init__(arm, setting)
        self._parameters = [each.detach() for each in parameters]
        self._optimizer = optimizer
        optimizer.train()

    def weights(self) -> Sequence[Tensor]:
        """x, by the library's own `eval()`; what its `train()` then rounds is put right."""
        y = [each.clone() for each in self._parameters]
        self._optimizer.eval()
        x = [each.clone() for each in self._parameters]
        self._optimizer.train()
        copy_(self._parameters, y)
        return x


class Leaping(Reading):
    """The engine at work: live, or shadow.

    Args:
        arm: its name.
        setting: as recorded.
        leap: the engine.
        shares: draws of held-out data that are one batch; one for each rank.
    """

    def __init__(self, arm: str, setting: str, leap: Any, shares: int = 1) -> None:
        super().__init__(arm, setting)
        self._leap, self._shares = leap, shares

    @property
    def leapt(self) -> int:
        """Steps leapt over so far."""
        return int(self._leap.leapt)

    def after(self, step: int) -> None:
        """Let the engine act."""
        del step
        self._leap.step()

    def bill(self) -> Bill:
        """By the engine's own ledger; so many of its draws as there are ranks are one held-out batch."""
        report = self._leap.report()
        return Bill(
            tokens=float(report["overhead_tokens"]),
            seconds=float(report["overhead_s"]),
            attempts=int(report["attempts"]),
            accepted=int(report["accepted"]),
            heldout_batches=int(report["heldout_batches"]) // self._shares,
        )

    def close(self) -> None:
        """Take the engine's hooks out."""
        self._leap.close()


class Annealing(Leaping):
    """The engine watching a run at a constant rate, asked at each reading what it would be worth annealed."""

    def __init__(self, arm: str, setting: str, leap: Any, names: Sequence[str], shares: int = 1) -> None:
        super().__init__(arm, setting, leap, shares)
        self._names = names

    def weights(self) -> Sequence[Tensor]:
        """The annealed weights, verified; the raw ones where that failed."""
        found = self._leap.anneal().weights
        return [found[name] for name in self._names]
