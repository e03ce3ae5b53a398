"""Counters of what a prediction and its verification run forward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from leapverify.predict import Predictor
from leapverify.study.apparatus import Apparatus
from leapverify.study.restore import RestorePoint, WeightRestorer
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


class Persistence:
    """Trains on from predicted states, and leaves model and optimizer bit-identical.

    The weights are the predicted ones; moments, batches, rates and random streams are those with which the run itself
    goes on from theta_t.

    Args:
        apparatus: stands at the checkpoint whenever a method is called.
        restorer: of theta_t.
    """

    def __init__(self, apparatus: Apparatus, restorer: WeightRestorer) -> None:
        self._a, self._restorer = apparatus, restorer
        self._tensors = list(apparatus.moved.values())
        self._restore_point = RestorePoint(apparatus.model, apparatus.optimizer, apart=self._tensors)

    def save(self) -> None:
        """Take note of where the run stands."""
        self._restore_point.save()

    def loss_after(self, method: Predictor, horizon: int, step: int, steps: int) -> float | None:
        """The held-out loss after real steps from a prediction; None if it is not finite.

        Args:
            method: predicts from the apparatus' history.
            horizon: K, steps.
            step: t.
            steps: R.
        """
        self._restorer.save()
        self._restore_point.leave()
        try:
            method.predict(self._a.history, horizon, out=self._tensors)
            self._a.train(step + 1, step + 1, steps)
            loss = self._a.verifier.loss_of()
        finally:
            self._restorer.restore()
            self._restore_point.restore()
            self._restore_point.wait()
        return loss if math.isfinite(loss) else None


def share_left(loss_now: float, loss_predicted: float, loss_real: float, loss_leapt: float | None) -> float | None:
    """(L_real - L_leapt) / (L_t - L_hat), the share of a gain above 0 that is still there.

    Args:
        loss_now: L_t.
        loss_predicted: L_hat, below it.
        loss_real: L_real, after R real steps from theta_t.
        loss_leapt: L_leapt, after the same steps from the prediction; None if it is not finite.
    """
    if loss_leapt is None or not math.isfinite(loss_real):
        return None
    return (loss_real - loss_leapt) / (loss_now - loss_predicted)
