"""The sweep of one checkpoint: every predictor, every horizon, every criterion (SPEC 5, 6.2).

The same function serves while training and over saved snapshots, so both give the same numbers. Predictions are written
into the model's own parameters, which makes the model the one candidate; theta_t comes back from the history.

The host runs ahead of the device: first every prediction is made and sent over the fixed set, its losses and whether it
is finite staying on the device; one transfer brings them all. Only those whose paired test is then still open, and that
could still be a row's best, are predicted once more and go on batch by batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leapverify.config.study import SweepConfig
from leapverify.core.stopwatch import Stopwatch
from leapverify.core.weights import finite
from leapverify.errors import Declined
from leapverify.io.records import LossPoint, Prediction
from leapverify.predict import Predictor, predictor, prepare
from leapverify.study.restore import WeightRestorer
from leapverify.trajectory.history import History
from leapverify.verify import Measured, Passes, Trial, Verdict, Verifier, fetch, gain_fraction, steps_gained


@dataclass(frozen=True)
class SweepPoint:
    """The checkpoint that is swept."""

    seed: int
    step: int
    regime: str
    now: Measured
    sigma: float
    """Margin of the criterion `adaptive`, nats per token."""


@dataclass
class _Attempt:
    """One prediction and what becomes of it; fields are filled in as the sweep gets on."""

    name: str
    method: Predictor
    horizon: int
    declined: str | None = None
    finite: Tensor | None = None
    """Whether the weights are, on the device."""
    passes: Passes | None = None
    trial: Trial | None = None
    """None where there is none, or where the weights are not finite."""
    watches: tuple[Stopwatch, ...] = ()
    """Of the prediction and of the fixed set."""
    predict_s: float = 0.0
    verify_s: float = 0.0

    @property
    def loss(self) -> float:
        """What the best is picked by: infinite without a verdict on finite losses."""
        return self.trial.loss if self.trial is not None and self.trial.finite else math.inf

    def ended(self) -> dict[str, Any]:
        """The fields of its row."""
        if self.declined is not None:
            return {"status": "declined", "reason": self.declined}
        if self.trial is None:
            return _rejection("the predicted weights are not finite")
        verdict = self.trial.verdict(self.verify_s)
        return _judged(verdict) if verdict.finite else _rejection("the predicted loss is not finite")


class Sweeper:
    """Predicts into the model's parameters, has them verified, and puts theta_t back.

    Args:
        parameters: the model's trained parameters, or what this rank holds of them, in the order of the history's
            tensors.
        history: its newest snapshot is of theta_t when `sweep` is called.
        verifier: measures the model that holds `parameters`.
        settings: predictors, horizons and precisions.
        restorer: of theta_t, to be shared with cascades; None makes one.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        history: History,
        verifier: Verifier,
        settings: SweepConfig,
        restorer: WeightRestorer | None = None,
    ) -> None:
        self._parameters, self._history, self._verifier = parameters, history, verifier
        self._settings = settings
        self._variants = {name: self._scales(name) for name in settings.predictors}
        self.restorer = restorer or WeightRestorer(parameters, history)

    def sweep(self, point: SweepPoint) -> list[Prediction]:
        """Every predictor at every horizon; the parameters are bit-identical afterwards.

        `predict_s` is the time of the one prediction, its check for finite weights included; `verify_s` that of all its
        forward passes and tests. In neither are the norms that two predictors read once a checkpoint, and the second
        prediction where the paired test goes on.
        """
        self.restorer.save()
        try:
            rows = [
                [_Attempt(name, method, horizon) for method in methods]
                for name, methods in self._variants.items()
                for horizon in self._settings.horizons
            ]
            self._run_ahead(point, [attempt for row in rows for attempt in row])
            return [self._row(point, row) for row in rows]
        finally:
            self.restorer.restore()

    def _scales(self, name: str) -> list[Predictor]:
        if name == "momentum":
            return [predictor(name, scale=scale) for scale in self._settings.momentum_scales]
        return [predictor(name)]

    def _run_ahead(self, point: SweepPoint, attempts: Sequence[_Attempt]) -> None:
        """All predictions over the fixed set, and a trial for each that has losses; the host waits once, at the end."""
        prepare([attempt.method for attempt in attempts], self._history, self._parameters)
        for attempt in attempts:
            self._queue(point, attempt)
        queued = [attempt for attempt in attempts if attempt.passes is not None]
        results, flags = fetch(
            [attempt.passes for attempt in queued if attempt.passes is not None],
            [attempt.finite for attempt in queued if attempt.finite is not None],
        )
        flags = self._everywhere(flags)
        for attempt, ran, sound in zip(queued, results, flags, strict=True):
            attempt.predict_s, attempt.verify_s = (watch.seconds for watch in attempt.watches)
            if sound:
                watch = Stopwatch(torch.device("cpu"))
                attempt.trial = self._verifier.judge(point.now, ran, point.sigma)
                watch.stop()
                attempt.verify_s += watch.seconds

    def _everywhere(self, flags: list[bool]) -> list[bool]:
        """Whether predictions are finite in what every rank holds of them."""
        shards = self._history.shards
        if shards is None:
            return flags
        return [all(each) for each in zip(*shards.ranks.all_gather("finite predictions", flags), strict=True)]

    def _queue(self, point: SweepPoint, attempt: _Attempt) -> None:
        """Predict and run the fixed set; nothing here reads from the device."""
        predicting = Stopwatch(self._device)
        try:
            attempt.method.predict(self._history, attempt.horizon, out=self._parameters)
        except Declined as declined:
            attempt.declined = str(declined)
            return
        attempt.finite = finite(self._parameters)
        predicting.stop()
        verifying = Stopwatch(self._device)
        attempt.passes = self._verifier.run(point.now)
        verifying.stop()
        attempt.watches = (predicting, verifying)

    def _row(self, point: SweepPoint, attempts: Sequence[_Attempt]) -> Prediction:
        """The row of the best of several scales, or of the only one; first its paired test is brought to its end."""
        best = _best(attempts)
        while best.trial is not None and best.trial.open:
            self._finish(best, best.trial)
            best = _best(attempts)  # losses beyond the fixed set that are not finite make way for the next
        blank = _blank(point, best)
        # Trying several scales costs what all of them cost.
        return dataclasses.replace(
            blank,
            predict_s=sum(attempt.predict_s for attempt in attempts),
            verify_s=sum(attempt.verify_s for attempt in attempts),
            **best.ended(),
        )

    def _finish(self, attempt: _Attempt, trial: Trial) -> None:
        """Predict once more, the same bits, and go on until the paired test has its answer."""
        attempt.method.predict(self._history, attempt.horizon, out=self._parameters)
        watch = Stopwatch(self._device)
        while trial.open:
            self._verifier.go_on(trial)
        watch.stop()
        attempt.verify_s += watch.seconds

    @property
    def _device(self) -> torch.device:
        return self._parameters[0].device


def _best(attempts: Sequence[_Attempt]) -> _Attempt:
    """The one of the smallest loss, the first of equal ones."""
    return min(attempts, key=lambda attempt: attempt.loss)


def _blank(point: SweepPoint, attempt: _Attempt) -> Prediction:
    return Prediction(
        seed=point.seed,
        step=point.step,
        regime=point.regime,
        predictor=attempt.name,
        horizon=attempt.horizon,
        status="ok",
        reason=None,
        loss_now=point.now.loss,
        loss_predicted=None,
        loss_actual=None,
        sigma=point.sigma,
        strict=None,
        adaptive=None,
        proximity=None,
        paired=None,
        paired_lower=None,
        paired_sequences=None,
        gain_fraction=None,
        steps_gained=None,
        predict_s=0.0,
        verify_s=0.0,
    )


def _rejection(reason: str) -> dict[str, Any]:
    refused = dict.fromkeys(("strict", "adaptive", "proximity", "paired"), False)
    return {"status": "nonfinite", "reason": reason, **refused}


def _judged(verdict: Verdict) -> dict[str, Any]:
    return {
        "loss_predicted": verdict.loss,
        "strict": verdict.strict,
        "adaptive": verdict.adaptive,
        "proximity": verdict.proximity,
        "paired": verdict.paired,
        "paired_lower": verdict.paired_lower,
        "paired_sequences": verdict.paired_sequences,
    }


def complete(predictions: Sequence[Prediction], curve: Sequence[LossPoint]) -> list[Prediction]:
    """Fill in what only the run's future tells: L_{t+K}, the gain fraction and the steps gained."""
    losses = {point.step: point.heldout_loss for point in curve}
    steps = sorted(losses)
    ordered = [losses[step] for step in steps]
    return list(_completed(predictions, losses, steps, ordered))


def _completed(
    predictions: Sequence[Prediction], losses: dict[int, float], steps: list[int], ordered: list[float]
) -> Iterator[Prediction]:
    for row in predictions:
        actual = losses.get(row.step + row.horizon)
        predicted = row.loss_predicted
        if predicted is None:
            yield dataclasses.replace(row, loss_actual=actual)
            continue
        yield dataclasses.replace(
            row,
            loss_actual=actual,
            gain_fraction=None if actual is None else gain_fraction(row.loss_now, predicted, actual),
            steps_gained=steps_gained(row.step, row.loss_now, predicted, steps, ordered),
        )
