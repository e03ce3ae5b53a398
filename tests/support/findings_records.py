"""Made-up studies in which it is known what their labels and their acceptance depend on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from leapverify.analysis.study.sensitivity import relabel
from leapverify.claims.evidence import BASE, CONSTANT, LENGTHS, Evidence, Records
from leapverify.io.records import Checkpoint, Prediction, SeedMeasure
from leapverify.train.schedule import Schedule

LOW, HIGH = 0.9962696, 0.99948916
PREDICTORS = ("hold", "random", "linear", "quadratic", "momentum", "adam", "adam-constant")
HORIZONS = (5, 25, 100)
PEAK, STEPS, INTERVAL = 1e-3, 1000, 50

Angle = Callable[[int, float, int], float]
"""(step, sum of eta over the interval, seed) -> radians."""
Judge = Callable[[Checkpoint, str, int, np.random.Generator], Mapping[str, Any]]
"""(checkpoint, predictor, K, chance) -> fields of the prediction."""


def by_eta(step: int, eta_sum: float, seed: int) -> float:
    """The angle is the distance that the optimizer was allowed: nothing of the run in it, but a little per seed."""
    return 2.4 * eta_sum * (1 + 0.02 * math.sin(seed + step))


def by_step(step: int, eta_sum: float, seed: int) -> float:
    """The angle is a course of the run itself, whatever rate or interval it had."""
    return 0.2 * math.exp(-step / 350) * (1 + 0.02 * math.sin(seed + step))


def unjudged(row: Checkpoint, predictor: str, horizon: int, chance: np.random.Generator) -> Mapping[str, Any]:
    """A prediction that is made and never accepted."""
    return {"strict": False, "proximity": predictor == "hold"}


def study(
    angle: Angle = by_eta,
    judge: Judge = unjudged,
    *,
    seeds: Sequence[int] = range(6),
    peak: float = PEAK,
    schedule: str = "cosine",
    interval: int = INTERVAL,
    steps: int = STEPS,
    horizons: Sequence[int] = HORIZONS,
    measures: Sequence[SeedMeasure] = (),
    **columns: Any,
) -> Records:
    """One study; `columns` are fields of every checkpoint, or functions of (seed, step)."""
    warmup = steps // 20
    eta = Schedule(schedule, peak, warmup, steps)  # type: ignore[arg-type]
    rows, predictions = [], []
    for seed in seeds:
        chance = np.random.default_rng(seed)
        for step in range(interval, steps + 1, interval):
            eta_sum = eta.sum(step - interval, interval)
            similarity = None if step == interval else math.cos(angle(step, eta_sum, seed))
            own = {name: value(seed, step) if callable(value) else value for name, value in columns.items()}
            row = _checkpoint(seed, step, eta(step), eta_sum, similarity, **own)
            rows.append(row)
            cells = [(predictor, k) for predictor in PREDICTORS for k in horizons]
            predictions += [_prediction(row, p, k, **judge(row, p, k, chance)) for p, k in cells]
    return Records(rows, predictions, measures, peak, warmup, steps, interval, 1000)


def _checkpoint(seed: int, step: int, lr: float, eta_sum: float, similarity: float | None, **own: Any) -> Checkpoint:
    fields: dict[str, Any] = {
        "seed": seed, "step": step, "lr": lr, "eta_sum": eta_sum, "train_loss": 2.0, "heldout_loss": 2.0,
        "val_loss": 2.0, "similarity": similarity, "similarity_concatenated": similarity,
        "similarity_per_probe": similarity, "similarity_centred": similarity,
        "regime": relabel(similarity, LOW, HIGH), "straightness": 0.5, "loss_curvature": 0.01, "lyapunov": None,
        "tokens": step, "elapsed_s": 1.0, "train_s": 1.0, "observe_s": 0.1, "evaluate_s": 0.1, "sweep_s": 0.1,
        "cascade_s": 0.0, "snapshot_s": 0.1, "lyapunov_s": 0.0,
    }  # fmt: skip
    return Checkpoint(**{**fields, **own})


def _prediction(row: Checkpoint, predictor: str, horizon: int, **own: Any) -> Prediction:
    fields: dict[str, Any] = {
        "seed": row.seed, "step": row.step, "regime": row.regime, "predictor": predictor, "horizon": horizon,
        "status": "ok", "reason": None, "loss_now": 2.0, "loss_predicted": 2.0, "loss_actual": 1.9, "sigma": 0.1,
        "strict": False, "adaptive": True, "proximity": True, "paired": None, "paired_lower": None,
        "paired_sequences": None, "gain_fraction": None, "steps_gained": None, "predict_s": 0.1, "verify_s": 0.1,
    }  # fmt: skip
    return Prediction(**{**fields, **own})


def whole_set(angle: Angle, judge: Judge = unjudged, **options: Any) -> Evidence:
    """The base study with every change of rate, interval, schedule and length."""

    def one(**more: Any) -> Records:
        return study(angle, judge, **{**options, **more})

    studies = {
        BASE: one(),
        "rate-half": one(peak=PEAK / 2),
        "rate-double": one(peak=2 * PEAK),
        "interval-half": one(interval=INTERVAL // 2),
        "interval-double": one(interval=2 * INTERVAL),
        **{
            name: one(schedule="constant", peak=PEAK * share)
            for name, share in zip(CONSTANT, (1.0, 0.25, 0.0625), strict=True)
        },
        **{name: one(steps=steps, horizons=()) for name, steps in zip(LENGTHS, (600, 800, 1200), strict=True)},
    }
    return Evidence(studies, {})


def pairs(seeds: Sequence[int], value: float, untrained: float, null: float, step: int = STEPS) -> list[SeedMeasure]:
    """CKA and RSA of every pair of seeds at the last step."""
    return [
        SeedMeasure(measure, step, None, a, b, value + 0.001 * ((a + b) % 3), null, null - 0.1, null, untrained)
        for measure in ("cka", "rsa")
        for a in seeds
        for b in seeds
        if a < b
    ]
