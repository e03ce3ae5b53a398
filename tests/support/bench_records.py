"""A made-up bench: plausible rows of many predictors, and single rows to build exact ones from."""

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leapverify.io import records
from leapverify.io.records import Benched, Prediction, RaceRun

STEP_TOKENS = 1536.0
DELTA = 50
HORIZONS = (5, 10, 25, 50, 75, 100)


def row(name: str, seed: int = 1, step: int = 100, horizon: int = DELTA, **changes: object) -> Prediction:
    """One prediction with a gain of 0.01 nats and 10 steps; `changes` replaces fields."""
    base = Prediction(
        seed=seed, step=step, regime="stable", predictor=name, horizon=horizon, status="ok", reason=None, loss_now=3.0,
        loss_predicted=2.99, loss_actual=2.95, sigma=0.05, strict=True, adaptive=True, proximity=True, paired=True,
        paired_lower=0.001, paired_sequences=64, gain_fraction=0.2, steps_gained=10, predict_s=0.01, verify_s=0.1,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def without(name: str, status: str, reason: str, **changes: object) -> Prediction:
    """One prediction that was declined or is not finite."""
    empty = ("loss_predicted", "paired_lower", "paired_sequences", "gain_fraction", "steps_gained")
    verdicts = dict.fromkeys(("strict", "adaptive", "proximity", "paired"), None if status == "declined" else False)
    return row(name, **{**dict.fromkeys(empty), **verdicts, "status": status, "reason": reason, **changes})


def beside(prediction: Prediction, persistence: float | None = 0.5, **changes: object) -> Benched:
    """What the bench adds to a prediction; it costs half a training step, and keeps half of its gain."""
    base = Benched(
        seed=prediction.seed, step=prediction.step, predictor=prediction.predictor, horizon=prediction.horizon,
        any_horizon=False, predict_tokens=STEP_TOKENS / 6, verify_tokens=STEP_TOKENS / 3,
        persist_steps=None if persistence is None else DELTA, loss_real=None if persistence is None else 2.95,
        loss_leapt=None if persistence is None else 2.95 - 0.01 * persistence, persistence=persistence,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Kind:
    """How one made-up predictor does."""

    gain: float
    """Of the run's own fall over K, at the shortest K."""
    falling: float = 0.0
    """How fast that turns into harm with K."""
    kept: float = 0.6
    passes: float = 0.05
    """Cost of its prediction, training steps."""
    free: bool = False
    needs: int = 2
    """Checkpoints before it predicts at all."""
    noise: float = 0.15


KINDS: Mapping[str, Kind] = {
    "hold": Kind(0.0, noise=0.0, needs=0),
    "random": Kind(-0.3, 0.5, needs=1),
    "linear": Kind(0.3, 1.4),
    "quadratic": Kind(0.1, 3.0),
    "quadratic-paper": Kind(0.2, 2.0),
    "quadratic-clamped": Kind(0.2, 2.2),
    "momentum": Kind(-30.0, 500.0),
    "adam": Kind(0.15, 0.1, 0.4),
    "adam-constant": Kind(-0.5, 3.0),
    "taylor-3": Kind(-0.3, 8.0, needs=4),
    "taylor-4": Kind(-1.0, 20.0, needs=5),
    "plp": Kind(-0.1, 0.4),
    "xgrad": Kind(0.05, 0.2, 0.3),
    "lawa-5": Kind(0.5, 0.0, 0.25, free=True, needs=5),
    "anneal-linear": Kind(0.9, 0.0, 0.2, free=True, needs=6),
    "anneal-cosine": Kind(0.85, 0.0, 0.2, free=True, needs=6),
    "anneal-sqrt": Kind(0.95, 0.0, 0.22, free=True, needs=6),
    "ema-posthoc": Kind(0.6, 0.0, 0.2, free=True, needs=3),
    "ema-extrapolate": Kind(0.8, 0.1, 0.8, needs=6),
    "lookahead": Kind(0.2, 0.0, 0.1, free=True),
    "outer-nesterov": Kind(0.3, 0.2, 0.5, free=True),
    "rre": Kind(0.5, 0.0, 0.15, 6.0, free=True, needs=8),
    "anderson": Kind(0.45, 0.0, 0.15, 6.0, free=True, needs=8),
    "dmd-2": Kind(0.25, 0.6, 0.5, needs=8),
    "rank1": Kind(0.1, 0.9, 0.5, needs=5),
    "linear-fit": Kind(0.35, 1.0, 0.6, needs=5),
    "fast-forward": Kind(0.5, 0.0, 0.7, 4.0, free=True),
    "nino-mlp": Kind(-0.2, 0.5, 0.5, 3.0, needs=5),
    "nino": Kind(-0.3, 0.6, 0.5, 12.0, needs=5),
    "subspace": Kind(0.9, 0.0, 0.9, 30.0, free=True, needs=5),
}
"""As many as the catalogue has."""


def loss(seed: int, step: float) -> float:
    """The held-out loss of a made-up run."""
    return 2.2 + 3.3 * math.exp(-step / 400) + 0.004 * math.sin(seed * 1.7 + step / 60) + 0.006 * (seed - 43)


def bench_rows(
    kinds: Mapping[str, Kind] = KINDS,
    seeds: Sequence[int] = (42, 43, 44, 45),
    steps: int = 1500,
    horizons: Sequence[int] = HORIZONS,
) -> tuple[list[Prediction], list[Benched]]:
    """Every predictor at every checkpoint for every K."""
    predictions, benched = [], []
    for seed in seeds:
        for index, step in enumerate(range(DELTA, steps + 1, DELTA)):
            for name, kind in kinds.items():
                for horizon in horizons:
                    # Same state for every K: the same draw.
                    drawn = zlib.crc32(f"{seed} {step} {name} {0 if kind.free else horizon}".encode())
                    found = _row(name, kind, seed, step, index, horizon, steps, np.random.default_rng(drawn))
                    predictions.append(found)
                    benched.append(_beside(found, kind, np.random.default_rng(drawn + 1)))
    return predictions, benched


def _row(
    name: str, kind: Kind, seed: int, step: int, index: int, horizon: int, steps: int, rng: np.random.Generator
) -> Prediction:
    regime = "unknown" if not index else ("chaotic", "transition", "stable")[min(2, 3 * step // steps)]
    place = {"seed": seed, "step": step, "horizon": horizon, "regime": regime, "loss_now": loss(seed, step)}
    if index + 1 < kind.needs:
        return without(name, "declined", f"needs {kind.needs} snapshots, the history holds {index + 1}", **place)
    span = DELTA if kind.free else horizon
    now, fall = loss(seed, step), loss(seed, step) - loss(seed, step + span)
    share = kind.gain - kind.falling * (span / 50) ** 1.5 + kind.noise * rng.standard_normal()
    predicted = now - share * fall
    if predicted > 1e3:
        return without(name, "nonfinite", "the predicted weights are not finite", **place)
    known = step + horizon <= steps
    run = now - loss(seed, step + horizon)
    reached = next((n for n in range(1, steps - step + 1) if loss(seed, step + n) <= predicted), None)
    return row(
        name, loss_predicted=predicted, loss_actual=loss(seed, step + horizon) if known else None,
        strict=predicted < now, adaptive=predicted < now + 0.05, proximity=abs(predicted - now) < 0.05 * now,
        paired=now - predicted > 0.003, gain_fraction=(now - predicted) / run if known and run > 0 else None,
        steps_gained=reached if predicted < now else 0, **place,
    )  # fmt: skip


def _beside(found: Prediction, kind: Kind, rng: np.random.Generator) -> Benched:
    costs = {"any_horizon": kind.free, "predict_tokens": kind.passes * STEP_TOKENS, "verify_tokens": 1.4 * STEP_TOKENS}
    if found.status == "declined":
        costs |= {"predict_tokens": 0.0, "verify_tokens": 0.0}
    kept = kind.kept + 0.1 * rng.standard_normal() if found.strict else None
    return beside(found, kept, **costs)


def write_bench(
    folder: Path,
    predictions: Iterable[Prediction],
    benched: Iterable[Benched],
    task: str = "pretrain",
    races: Sequence[RaceRun] = (),
    **about: object,
) -> Path:
    """A run folder with a bench, and a race where there are runs of one."""
    (folder / "bench").mkdir(parents=True, exist_ok=True)
    records.write(folder / "bench" / "predictions.parquet", Prediction, predictions)
    records.write(folder / "bench" / "benched.parquet", Benched, benched)
    said = {"task": task, "preset": "tiny", "persist_steps": DELTA, "step_tokens": STEP_TOKENS, **about}
    (folder / "bench" / "bench.json").write_text(json.dumps(said))
    if races:
        (folder / "race").mkdir(exist_ok=True)
        records.write(folder / "race" / "runs.parquet", RaceRun, races)
    return folder
