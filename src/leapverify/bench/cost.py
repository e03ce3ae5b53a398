"""Counters of what a prediction and its verification run forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from leapverify.verify.comparison import positions_of
from leapverify.verify.heldout import LossFunction


class CountedLoss:
    """A loss function that counts the positions it forwards."""

    def __init__(self, loss: LossFunction) -> None:
        self._loss = loss
        self.positions = 0

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        """As the loss function itself."""
        self.positions += positions_of(batch)
        return self._loss(model, batch)


class Meter:
    """Readings of counters that only go up: what has been added since the last one."""

    def __init__(self, reading: Callable[[], float]) -> None:
        self._reading = reading
        self._last = reading()

    def since(self) -> float:
        """What came since the last call."""
        now = self._reading()
        found, self._last = now - self._last, now
        return found
