"""What a prediction and its verification cost in forward-token equivalents, as the live engine's ledger counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from leapverify.history import History
from leapverify.leap.ledger import PASS_TOKENS
from leapverify.predict import Needs
from leapverify.verify.comparison import positions_of
from leapverify.verify.heldout import LossFunction


def copy_tokens(needs: Needs, history: History) -> float:
    """The cost of a prediction's own reading and writing.

    It reads its snapshots and other states, writes once, and is read once to see whether it is finite; a copy of all
    weights is one read and one write.

    Args:
        needs: of the predictor.
        history: from which it predicts; as many snapshots count as it holds.
    """
    read = min(needs.reach, len(history)) + needs.recent + len(needs.milestones) + (2 if needs.optimizer_state else 0)
    if needs.averages and history.averages is not None:
        read += len(history.averages.states)
    return PASS_TOKENS * (read + 2) / 2


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
