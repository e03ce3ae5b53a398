"""Cascades (SPEC 6.3): predictions on predictions, or predictions with K real steps between them."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leapverify.config.study import CascadeConfig
from leapverify.core.weights import all_finite, distance, norm
from leapverify.errors import Declined
from leapverify.io.records import CascadeLink, LossPoint
from leapverify.predict import Predictor, predictor
from leapverify.study.restore import RestorePoint, WeightRestorer
from leapverify.trajectory.history import History, OptimizerState
from leapverify.verify import Verifier

TrainSteps = Callable[[int, int, int], None]
"""(first batch's step number, first effective step, how many): train so many real steps on the model."""


@dataclass(frozen=True)
class Start:
    """The stable checkpoint that cascades start from."""

    seed: int
    step: int
    loss: float


class Cascader:
    """Runs cascades from a checkpoint and leaves model and optimizer bit-identical.

    Args:
        model, optimizer: the run, standing at the checkpoint.
        parameters: the model's trained parameters, or what this rank holds of them, in the order of the history's
            tensors.
        history: ends with theta_t and holds the present optimizer state.
        verifier: measures the model.
        train: does real steps on the model (for `trained`).
        state: the optimizer's present state at an effective step.
        settings: kinds, shapes and predictors.
        restorer: of theta_t, where the sweep has one already.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[Tensor],
        history: History,
        verifier: Verifier,
        train: TrainSteps,
        state: Callable[[int], OptimizerState],
        settings: CascadeConfig,
        restorer: WeightRestorer | None = None,
    ) -> None:
        self._parameters, self._history, self._verifier = parameters, history, verifier
        self._train, self._state, self._settings = train, state, settings
        self._restorer = restorer or WeightRestorer(parameters, history)
        self._restore_point = RestorePoint(model, optimizer, apart=parameters)
        self._size = 1.0
        """norm(theta_t)."""

    @property
    def nbytes(self) -> int:
        """Bytes of host memory that cascades hold, once some have run."""
        return self._restorer.nbytes + self._restore_point.nbytes

    def run(self, start: Start) -> list[CascadeLink]:
        """All cascades of the settings from here."""
        self._restorer.save()
        if "trained" in self._settings.kinds:
            self._restore_point.save()  # runs beside the first prediction and its verification
        exact = self._restorer.exact
        self._size = norm(self._parameters if exact else self._history[-1].tensors, self._history.shards)
        try:
            return list(self._links(start))
        finally:
            self._restore_point.wait()

    def _links(self, start: Start) -> Iterator[CascadeLink]:
        names = {"chained": self._settings.predictors, "trained": self._settings.trained_predictors}
        for kind in self._settings.kinds:
            for name in names[kind]:
                for depth, horizon in self._settings.shapes:
                    try:
                        yield from self._cascade(start, kind, name, depth, horizon)
                    finally:
                        self._restorer.restore()
                        self._restore_point.restore()

    def _cascade(self, start: Start, kind: str, name: str, depth: int, horizon: int) -> Iterator[CascadeLink]:
        method = predictor(name)
        with self._history.branch(method.needs.reach) as ring:
            yield from self._links_of(method, ring, _blank(start, kind, name, depth, horizon))

    def _links_of(self, method: Predictor, ring: History, blank: CascadeLink) -> Iterator[CascadeLink]:
        before, real, horizon = blank.loss_start, 0, blank.horizon
        for link in range(1, blank.depth + 1):
            clock = time.perf_counter()
            row = dataclasses.replace(blank, link=link, loss_before=before)
            status, predicted = self._predict(method, ring, horizon)
            if predicted is None:
                strict = None if status == "declined" else False
                yield dataclasses.replace(row, status=status, strict=strict, seconds=time.perf_counter() - clock)
                return
            after = predicted
            if blank.kind == "chained":
                if link < blank.depth:  # nothing goes on from the last one
                    self._chain(ring, horizon)
            else:
                self._train_on(ring, blank.step + real, horizon)
                real += horizon
                after = self._verifier.loss_of()
            yield dataclasses.replace(
                row,
                loss_predicted=predicted,
                loss=after,
                strict=predicted < before,
                weight_drift=self._drift(),
                seconds=time.perf_counter() - clock,
            )
            before = after

    def _predict(self, method: Predictor, ring: History, horizon: int) -> tuple[str, float | None]:
        """Put the prediction into the model: its status and, where it has one, its held-out loss."""
        if method.needs.optimizer_state:
            self._restore_point.wait()
        try:
            method.predict(ring, horizon, out=self._parameters)
        except Declined:
            return "declined", None
        sound = all_finite(self._parameters, self._history.shards)
        loss = self._verifier.loss_of() if sound else math.nan
        return ("ok", loss) if math.isfinite(loss) else ("nonfinite", None)

    def _drift(self) -> float:
        """norm(theta - theta_t) / norm(theta_t)."""
        return distance(self._parameters, self._history[-1].tensors, self._history.shards) / self._size

    def _chain(self, ring: History, horizon: int) -> None:
        """Take the prediction for the state that the next one starts from."""
        state = ring.optimizer
        ring.push(ring[-1].step + horizon, self._parameters)
        ring.optimizer = state.decayed(horizon) if state else None

    def _train_on(self, ring: History, real_step: int, horizon: int) -> None:
        """Real steps from where the prediction landed; the history begins anew: no difference may span a leap."""
        landed = ring[-1].step + horizon
        gaps = min(ring.length - 1, horizon)
        marks = [round(horizon * index / gaps) for index in range(gaps + 1)] if gaps else [horizon]
        ring.reset()
        self._restore_point.leave()
        done = 0
        for mark in marks:
            self._train(real_step + done + 1, landed + done + 1, mark - done)
            done = mark
            ring.push(landed + done, self._parameters)
        ring.optimizer = self._state(landed + horizon)


def _blank(start: Start, kind: str, name: str, depth: int, horizon: int) -> CascadeLink:
    return CascadeLink(
        seed=start.seed,
        step=start.step,
        kind=kind,
        predictor=name,
        depth=depth,
        horizon=horizon,
        link=1,
        status="ok",
        loss_start=start.loss,
        loss_before=start.loss,
        loss_predicted=None,
        loss=None,
        strict=None,
        weight_drift=None,
        loss_same_effective_step=None,
        loss_same_real_steps=None,
        seconds=0.0,
    )


def complete(links: Sequence[CascadeLink], curve: Sequence[LossPoint]) -> list[CascadeLink]:
    """Fill in the run's own losses: at the step a link claims to have reached, and after as many real steps."""
    losses = {point.step: point.heldout_loss for point in curve}
    return [_completed(link, losses) for link in links]


def _completed(link: CascadeLink, losses: dict[int, float]) -> CascadeLink:
    leapt = link.link * link.horizon
    real = leapt if link.kind == "trained" else 0
    return dataclasses.replace(
        link,
        loss_same_effective_step=losses.get(link.step + leapt + real),
        loss_same_real_steps=losses.get(link.step + real),
    )
