"""The bench's records, joined row by row: what one attempt cost, gained and kept, in training steps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from leapverify.analysis.vocabulary import CONTROLS, LABELS
from leapverify.io.records import Benched, Prediction

REMEDY = "give the bench command again"


@dataclass(frozen=True, slots=True)
class Tried:
    """One predictor asked for one prediction, and what came of it."""

    prediction: Prediction
    predict_tokens: float
    """Forward-token equivalents."""
    verify_tokens: float
    cost_steps: float
    """Both costs over those of one training step."""
    left_steps: int
    """Steps after t to which the run's own loss is known."""
    kept: float | None
    """Persistence as recorded; -inf where training from the predicted state diverged; None where not measured."""

    @property
    def made(self) -> bool:
        """Whether there was a prediction at all."""
        return self.prediction.status != "declined"

    @property
    def finite(self) -> bool:
        """Whether it could be measured."""
        return self.prediction.status == "ok" and self.prediction.loss_predicted is not None

    @property
    def accepted(self) -> bool:
        """By `paired`."""
        return self.finite and self.prediction.paired is True

    @property
    def gain(self) -> float:
        """L_t - L_hat, nats per token; -inf where the prediction is not finite."""
        loss = self.prediction.loss_predicted
        return self.prediction.loss_now - loss if self.finite and loss is not None else -math.inf

    @property
    def beyond(self) -> bool:
        """Whether the run never reached L_hat while its loss is known."""
        return self.gain > 0.0 and self.prediction.steps_gained is None

    @property
    def steps(self) -> float:
        """Steps gained: 0 without gain, and where the run never reached L_hat the steps it had left: a lower bound."""
        if self.gain <= 0.0:
            return 0.0
        gained = self.prediction.steps_gained
        return float(self.left_steps if gained is None else gained)

    @property
    def kept_steps(self) -> float | None:
        """Steps gained x persistence between 0 and 1; None where steps were gained and it was not measured."""
        if self.steps == 0.0:
            return 0.0
        return None if self.kept is None else self.steps * min(max(self.kept, 0.0), 1.0)

    @property
    def unconditional_steps(self) -> float | None:
        """(L_t - L_hat) over the run's own fall per step, (L_t - L_{t+K})/K; None where it did not fall."""
        if not self.finite:
            return -math.inf
        fraction = self.prediction.gain_fraction
        return None if fraction is None else fraction * self.prediction.horizon


@dataclass(frozen=True)
class Bench:
    """One bench: every predictor on the recorded checkpoints of one task."""

    label: str
    """The task, or what tells it from others of the same task."""
    task: str
    """pretrain | finetune | lora."""
    headline_steps: int
    """The K of the leaderboard: the swept horizon nearest to Delta, fixed before anything is measured."""
    step_tokens: float
    """Forward-token equivalents of one training step: three times its positions."""
    tried: Sequence[Tried]
    """Horizon-free predictors once a checkpoint, under the headline K."""
    horizon_free: frozenset[str]
    """Predictors whose state is the same for every K."""
    standings: dict[tuple[str, str, int], object] = field(default_factory=dict, repr=False, compare=False)
    """What has been made of the rows so far, by predictor, regime and K: tables, figures and verdicts ask alike."""

    @cached_property
    def predictors(self) -> tuple[str, ...]:
        """Controls first, then the others by name."""
        found = {row.prediction.predictor for row in self.tried}
        return (*(name for name in CONTROLS if name in found), *sorted(found - set(CONTROLS)))

    @cached_property
    def horizons(self) -> tuple[int, ...]:
        """The horizons K, ascending, steps."""
        return tuple(sorted({row.prediction.horizon for row in self.tried}))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the recorded runs, ascending."""
        return tuple(sorted({row.prediction.seed for row in self.tried}))

    @cached_property
    def regimes(self) -> tuple[str, ...]:
        """The regimes from which predictions were made, in the order in which a run meets them."""
        found = {row.prediction.regime for row in self.tried}
        return tuple(name for name in LABELS if name in found)

    @cached_property
    def of_predictor(self) -> Mapping[str, Sequence[Tried]]:
        """Each predictor's rows."""
        found: dict[str, list[Tried]] = defaultdict(list)
        for row in self.tried:
            found[row.prediction.predictor].append(row)
        return found


Row = TypeVar("Row", Prediction, Benched)
AskedFor = tuple[int, int, str, int]
"""seed, step, predictor, horizon."""


def bench_of(
    label: str,
    task: str,
    predictions: Sequence[Prediction],
    benched: Iterable[Benched],
    *,
    interval_steps: int,
    step_tokens: float,
) -> Bench:
    """Join the two records of a bench.

    Args:
        label: what the bench is called beside others.
        task: pretrain | finetune | lora.
        predictions: one row a predictor, checkpoint and K.
        benched: what the bench adds to them.
        interval_steps: Delta.
        step_tokens: forward-token equivalents of one training step.

    Raises:
        ValueError: there is no prediction, one that was made has no cost, or a row occurs twice.
    """
    if not predictions:
        raise ValueError(f"the bench {label} holds no prediction: {REMEDY}")
    if not step_tokens > 0.0:
        raise ValueError(f"a training step of {step_tokens} forward tokens costs nothing: {REMEDY}")
    beside = _by_key(label, benched)
    free = frozenset(key[2] for key, row in beside.items() if row.any_horizon)
    headline = min({row.horizon for row in predictions}, key=lambda horizon: (abs(horizon - interval_steps), horizon))
    ends = _ends(predictions)
    tried = [
        _tried(label, row, beside.get(_key(row)), ends[row.seed] - row.step, step_tokens)
        for row in _once(_by_key(label, predictions).values(), free, headline)
    ]
    # A horizon-free prediction stands under the headline K, whichever of its rows was kept.
    placed = [
        replace(row, prediction=replace(row.prediction, horizon=headline)) if row.prediction.predictor in free else row
        for row in tried
    ]
    return Bench(label, task, headline, step_tokens, placed, free)


def _key(row: Prediction | Benched) -> AskedFor:
    return row.seed, row.step, row.predictor, row.horizon


def _by_key(label: str, rows: Iterable[Row]) -> dict[AskedFor, Row]:
    found: dict[AskedFor, Row] = {}
    for row in rows:
        seed, step, name, horizon = key = _key(row)
        if key in found:
            raise ValueError(f"the bench {label} holds seed {seed}, step {step}, {name}, K = {horizon} twice: {REMEDY}")
        found[key] = row
    return found


def _once(rows: Iterable[Prediction], free: frozenset[str], headline: int) -> list[Prediction]:
    """The rows, but of a horizon-free predictor one a checkpoint: that of the K nearest to the headline."""
    found: dict[tuple[int | str, ...], Prediction] = {}
    for row in rows:
        key = (row.seed, row.step, row.predictor, *(() if row.predictor in free else (row.horizon,)))
        before = found.get(key)
        if before is None or abs(row.horizon - headline) < abs(before.horizon - headline):
            found[key] = row
    return list(found.values())


def _ends(predictions: Iterable[Prediction]) -> dict[int, int]:
    """The last step of each seed at which the run's own loss is known."""
    ends: dict[int, int] = defaultdict(int)
    for row in predictions:
        known = row.step if row.loss_actual is None else row.step + row.horizon
        ends[row.seed] = max(ends[row.seed], known)
    return ends


def _tried(label: str, row: Prediction, cost: Benched | None, left_steps: int, step_tokens: float) -> Tried:
    if cost is None:
        if row.status != "declined":
            where = f"seed {row.seed}, step {row.step}, {row.predictor}, K = {row.horizon}"
            raise ValueError(f"the bench {label} has no cost for {where}: {REMEDY}")
        return Tried(row, 0.0, 0.0, 0.0, left_steps, None)
    kept = -math.inf if cost.persist_steps is not None and cost.loss_leapt is None else cost.persistence
    total = cost.predict_tokens + cost.verify_tokens
    return Tried(row, cost.predict_tokens, cost.verify_tokens, total / step_tokens, left_steps, kept)
