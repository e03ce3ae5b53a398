"""What K real steps did, measured when the run gets there, on the sequences of the prediction."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

KEPT = 16
"""Predictions that wait at most: each holds its held-out batches."""


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A prediction that was judged and not carried out."""

    due: int
    """Real step t + K."""
    step: int
    predictor: str
    horizon: int
    loss_now: float
    loss_predicted: float
    batches: tuple[Any, ...]


class Waiting:
    """Predictions in the order in which they were made; the oldest give way."""

    def __init__(self) -> None:
        self._queue: deque[Pending] = deque(maxlen=KEPT)

    def add(self, pending: Pending) -> None:
        """Wait for one more."""
        self._queue.append(pending)

    @property
    def next_due(self) -> int | None:
        """The nearest step at which one is due."""
        return min((each.due for each in self._queue), default=None)

    def due(self, step: int) -> list[Pending]:
        """Those due at a step, no longer waited for; those that were missed are dropped."""
        found = [each for each in self._queue if each.due == step]
        self._queue = deque((each for each in self._queue if each.due > step), maxlen=KEPT)
        return found

    def clear(self) -> None:
        """Wait for none."""
        self._queue.clear()
