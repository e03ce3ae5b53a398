"""The sweep of one checkpoint: every predictor, every horizon, every criterion (SPEC 5, 6.2).

The same function serves while training and over saved snapshots, so both give the same numbers. Predictions are written
into the model's own parameters, which makes the model the one candidate; one backup holds theta_t.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leapverify.history import History
from leapverify.predict import Declined, Predictor, predictor
from leapverify.records import LossPoint, Prediction
from leapverify.study.config import CascadeConfig, SweepConfig
from leapverify.verify import Measured, Verdict, Verifier, gain_fraction, steps_gained
from leapverify.weights import all_finite, copy_


@dataclass(frozen=True)
class SweepPoint:
    """The checkpoint that is swept."""

    seed: int
    step: int
    regime: str
    now: Measured
    sigma: float
    """Margin of the criterion `adaptive`, nats per token."""


class Sweeper:
    """Predicts into the model's parameters, has them verified, and puts theta_t back.

    Args:
        parameters: the model's trained parameters, in the order of the history's tensors.
        history: ends with theta_t when `sweep` is called.
        verifier: measures the model that holds `parameters`.
        settings: predictors, horizons and precisions.
    """

    def __init__(
        self, parameters: Sequence[Tensor], history: History, verifier: Verifier, settings: SweepConfig
    ) -> None:
        self._parameters, self._history, self._verifier = parameters, history, verifier
        self._settings = settings
        self._backup = [torch.empty_like(tensor, requires_grad=False) for tensor in parameters]
        self._variants = {name: self._scales(name) for name in settings.predictors}

    def sweep(self, point: SweepPoint) -> list[Prediction]:
        """Every predictor at every horizon; the parameters are bit-identical afterwards."""
        copy_(self._backup, self._parameters)
        try:
            return [self._row(point, name, horizon) for name in self._variants for horizon in self._settings.horizons]
        finally:
            copy_(self._parameters, self._backup)

    def _scales(self, name: str) -> list[Predictor]:
        if name == "momentum":
            return [predictor(name, scale=scale) for scale in self._settings.momentum_scales]
        return [predictor(name)]

    def _row(self, point: SweepPoint, name: str, horizon: int) -> Prediction:
        blank = Prediction(
            seed=point.seed,
            step=point.step,
            regime=point.regime,
            predictor=name,
            horizon=horizon,
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
        rows = [self._one(point, blank, variant) for variant in self._variants[name]]
        best = min(rows, key=lambda row: float("inf") if row.loss_predicted is None else row.loss_predicted)
        # Trying several scales costs what all of them cost.
        return dataclasses.replace(
            best, predict_s=sum(row.predict_s for row in rows), verify_s=sum(row.verify_s for row in rows)
        )

    def _one(self, point: SweepPoint, blank: Prediction, variant: Predictor) -> Prediction:
        start = time.perf_counter()
        try:
            variant.predict(self._history, blank.horizon, out=self._parameters)
        except Declined as declined:
            return dataclasses.replace(blank, status="declined", reason=str(declined))
        finite = all_finite(self._parameters)
        predict_s = time.perf_counter() - start
        if not finite:
            rejected = _rejection("the predicted weights are not finite")
            return dataclasses.replace(blank, predict_s=predict_s, **rejected)
        verdict = self._verifier.verify(point.now, point.sigma)
        judged = _judged(verdict) if verdict.finite else _rejection("the predicted loss is not finite")
        return dataclasses.replace(blank, predict_s=predict_s, verify_s=verdict.seconds, **judged)


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


def curve_steps(total_steps: int, interval: int, settings: SweepConfig, cascade: CascadeConfig) -> frozenset[int]:
    """The steps at which the held-out loss is measured: checkpoints, every t + K, the resolution asked for, and the
    steps that links of cascades are compared with."""
    starts = range(interval, total_steps + 1, interval)
    shapes = cascade.shapes if cascade.kinds else ()
    # A trained link claims twice the steps that it spends.
    links = {link * length * claim for depth, length in shapes for link in range(1, depth + 1) for claim in (1, 2)}
    ahead = {0, *settings.horizons, *links}
    wanted = {start + steps for start in starts for steps in ahead}
    if settings.curve_every_steps:
        wanted |= set(range(settings.curve_every_steps, total_steps + 1, settings.curve_every_steps))
    return frozenset(step for step in wanted if step <= total_steps)
