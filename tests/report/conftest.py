"""A made-up but realistic run folder: 4 seeds x 20 checkpoints x 10 predictors x 6 horizons, with holes."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from leapverify.io import records
from leapverify.io.records import CascadeLink, Checkpoint, LossPoint, Prediction, SeedMeasure
from leapverify.report import build_report

DELTA = 25
STEPS = 500
HORIZONS = (5, 10, 25, 50, 75, 100)
PREDICTORS = (
    "hold",
    "random",
    "linear",
    "quadratic",
    "quadratic-paper",
    "quadratic-clamped",
    "momentum",
    "adam",
    "adam-constant",
    "taylor-3",
)
LOW, HIGH = 0.9962696, 0.99948916


def _loss(seed: int, step: float) -> float:
    return 2.2 + 3.3 * math.exp(-step / 110) + 0.01 * math.sin(seed * 1.7 + step / 60) + 0.006 * (seed - 43.5)


def _regime(similarity: float | None) -> str:
    if similarity is None:
        return "unknown"
    if math.isnan(similarity) or similarity < LOW:
        return "chaotic"
    return "stable" if similarity > HIGH else "transition"


def checkpoint(seed: int, step: int, **changes: object) -> Checkpoint:
    """One checkpoint with plausible values; `changes` replaces fields."""
    base = Checkpoint(
        seed=seed, step=step, lr=1e-3, eta_sum=0.025, train_loss=3.0, heldout_loss=3.0, val_loss=3.1, similarity=0.999,
        similarity_concatenated=0.999, similarity_per_probe=0.9992, similarity_centred=0.95, regime="transition",
        straightness=0.5, loss_curvature=0.01, lyapunov=None, tokens=step * 1024, elapsed_s=step * 0.05, train_s=1.0,
        observe_s=0.05, evaluate_s=0.1, sweep_s=0.8, cascade_s=0.2, snapshot_s=0.03, lyapunov_s=0.0,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def prediction(seed: int, step: int, name: str, horizon: int, **changes: object) -> Prediction:
    """One scored prediction with plausible values; `changes` replaces fields."""
    base = Prediction(
        seed=seed, step=step, regime="transition", predictor=name, horizon=horizon, status="ok", reason=None,
        loss_now=3.0, loss_predicted=2.99, loss_actual=2.95, sigma=0.05, strict=True, adaptive=True, proximity=True,
        paired=True, paired_lower=0.001, paired_sequences=32, gain_fraction=0.2, steps_gained=5, predict_s=0.002,
        verify_s=0.02,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def declined(seed: int, step: int, name: str, horizon: int, reason: str, **changes: object) -> Prediction:
    """One declined prediction."""
    nothing = dict.fromkeys(("loss_predicted", "strict", "adaptive", "proximity", "paired", "paired_lower"))
    nothing |= dict.fromkeys(("paired_sequences", "gain_fraction", "steps_gained"))
    return prediction(seed, step, name, horizon, status="declined", reason=reason, **(nothing | changes))


def _checkpoints(seeds: tuple[int, ...], settle: float, rng: np.random.Generator, lyapunov: bool) -> list[Checkpoint]:
    rows = []
    for seed in seeds:
        for index, step in enumerate(range(DELTA, STEPS + 1, DELTA)):
            distance = 10 ** (-1.4 - settle * step / STEPS + 0.12 * rng.standard_normal())
            similarity = None if index == 0 else (math.nan if (seed, index) == (43, 3) else 1 - distance)
            rows.append(
                checkpoint(
                    seed, step, lr=1e-3 * (1 - step / (STEPS + 1)), heldout_loss=_loss(seed, step),
                    val_loss=_loss(seed, step) + 0.05, train_loss=_loss(seed, step - DELTA / 2), similarity=similarity,
                    similarity_concatenated=similarity, similarity_per_probe=similarity,
                    similarity_centred=None if similarity is None else 1 - 20 * distance, regime=_regime(similarity),
                    straightness=None if index < 2 else 0.9 - 0.8 * step / STEPS + 0.05 * rng.standard_normal(),
                    loss_curvature=None if index < 2 else 0.3 * math.exp(-step / 110),
                    lyapunov=0.02 - 0.03 * step / STEPS + 0.004 * rng.standard_normal() if lyapunov else None,
                )
            )  # fmt: skip
    return rows


def _predicted(name: str, horizon: int, row: Checkpoint, actual: float, rng: np.random.Generator) -> float:
    now, noise = row.heldout_loss, 0.002 * rng.standard_normal() * math.sqrt(horizon / 5)
    gain = now - actual
    match name:
        case "hold":
            return now
        case "random":
            return now + 0.02 * horizon
        case "momentum":
            return math.inf if horizon == 100 and row.seed == 45 else now * 20 * horizon
        case "adam-constant":
            return now * (1.05 + 0.01 * horizon)
        case "adam":
            return now - 0.15 * gain + noise
        case "linear":
            return now - gain * (0.8 - horizon / 60) + noise
        case _:
            return now - gain * (0.7 - horizon / 40) + 2 * noise


def _predictions(rows: list[Checkpoint], regimes: tuple[str, ...], rng: np.random.Generator) -> list[Prediction]:
    out = []
    for row in rows:
        if row.regime not in regimes:
            continue
        for name in PREDICTORS:
            for horizon in HORIZONS:
                if name == "taylor-3" and row.step < 4 * DELTA:
                    out.append(declined(row.seed, row.step, name, horizon, "needs 4 snapshots", regime=row.regime))
                    continue
                now, actual = row.heldout_loss, _loss(row.seed, row.step + horizon)
                loss = _predicted(name, horizon, row, actual, rng)
                fine, known = math.isfinite(loss), row.step + horizon <= STEPS
                improved = fine and known and now > actual
                fraction = (now - loss) / (now - actual) if improved else None
                out.append(
                    prediction(
                        row.seed, row.step, name, horizon, regime=row.regime, status="ok" if fine else "nonfinite",
                        reason=None if fine else "the predicted weights are not finite", loss_now=now,
                        loss_predicted=loss if fine else None, loss_actual=actual if known else None,
                        strict=loss < now, adaptive=loss < now + 0.05, proximity=abs(loss - now) < 0.05 * now,
                        paired=loss < now - 0.003, paired_lower=now - loss - 0.003 if fine else None,
                        gain_fraction=fraction,
                        steps_gained=None if fraction is None else max(0, int(fraction * horizon)),
                    )
                )  # fmt: skip
    return out


def _cascades(rows: list[Checkpoint], rng: np.random.Generator) -> list[CascadeLink]:
    out = []
    for row in rows:
        if row.regime != "stable":
            continue
        for kind in ("chained", "trained"):
            for name in ("linear", "adam"):
                for depth, horizon in ((4, 25), (2, 50), (10, 10)):
                    before = row.heldout_loss
                    for link in range(1, depth + 1):
                        real = 0 if kind == "chained" else link * horizon
                        hit = before + (0.01 if name == "linear" else -0.001) * horizon / 25 + 0.002 * rng.normal()
                        after = hit if kind == "chained" else hit - 0.012
                        out.append(
                            CascadeLink(
                                seed=row.seed, step=row.step, kind=kind, predictor=name, depth=depth, horizon=horizon,
                                link=link, status="ok", loss_start=row.heldout_loss, loss_before=before,
                                loss_predicted=hit, loss=after, strict=hit < before, weight_drift=0.01 * link,
                                loss_same_effective_step=_loss(row.seed, row.step + link * horizon + real),
                                loss_same_real_steps=_loss(row.seed, row.step + real), seconds=0.3,
                            )
                        )  # fmt: skip
                        before = after
    return out


def measure(name: str, value: float | None, **changes: object) -> SeedMeasure:
    """One row that compares seeds."""
    fields = [field.name for field in dataclasses.fields(SeedMeasure)]
    return SeedMeasure(**(dict.fromkeys(fields) | {"measure": name, "value": value} | changes))


def _seed_measures(rows: list[Checkpoint], rng: np.random.Generator) -> list[SeedMeasure]:
    seeds = sorted({row.seed for row in rows})
    steps = sorted({row.step for row in rows})
    out = [measure("final_val_loss", r.val_loss, seed_a=r.seed, step=r.step) for r in rows if r.step == STEPS]
    at = {(row.seed, row.step): row for row in rows}
    for step in steps if len(seeds) > 1 else []:
        losses = np.array([at[seed, step].val_loss for seed in seeds])
        out.append(measure("loss_cv_percent", 100 * losses.std(ddof=1) / losses.mean(), step=step))
        for a in seeds:
            for b in (b for b in seeds if b > a):
                grown = 1 - math.exp(-step / 200)
                for name, value, null, fresh in (
                    ("cka", 0.45 + 0.4 * grown, 0.31, 0.6),
                    ("procrustes", 0.8 - 0.35 * grown, 1.05, 0.7),
                    ("rsa", 0.3 + 0.5 * grown, 0.0, 0.35),
                ):
                    out.append(
                        measure(
                            name, value + 0.02 * rng.standard_normal(), step=step, seed_a=a, seed_b=b,
                            null_mean=null, null_low=null - 0.03, null_high=null + 0.03, untrained=fresh,
                        )
                    )  # fmt: skip
    return out


def write_run(run: Path, config: dict[str, object], environment: dict[str, object], **tables: list[object]) -> Path:
    """Write a run folder from rows; a table that is not given is written empty."""
    kinds = {
        "checkpoints": Checkpoint,
        "curve": LossPoint,
        "predictions": Prediction,
        "cascades": CascadeLink,
        "seeds": SeedMeasure,
    }
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "environment.json").write_text(json.dumps(environment))
    cut_points = {"method": "paper", "low": 0.9962696, "high": 0.99948916}
    (run / "thresholds.json").write_text(json.dumps(cut_points))
    for name, kind in kinds.items():
        records.write(run / f"{name}.parquet", kind, tables.get(name, []))  # type: ignore[type-var, arg-type]
    return run


def config_of(seeds: tuple[int, ...]) -> dict[str, object]:
    """A configuration as a study writes it."""
    return {
        "preset": "tiny", "seeds": list(seeds),
        "data": {"source": "stdlib", "tokenizer": "bytes", "form": "packed"},
        "model": {"family": "gpt2", "layers": 2, "hidden": 64, "heads": 4},
        "training": {"steps": STEPS, "batch_size": 8, "sequence_length": 64, "lr": 1e-3, "init": "per-seed"},
        "observe": {"interval_steps": DELTA, "similarity": "concatenated", "lyapunov": True},
        "regimes": {"thresholds": "paper", "low": None, "high": None},
        "verify": {"sequences": 64, "epsilon": 0.05},
        "sweep": {"predictors": list(PREDICTORS), "horizons": list(HORIZONS)},
        "switches": {"half_moments": False},
    }  # fmt: skip


ENVIRONMENT: dict[str, object] = {
    "command": "leapverify study tiny --seeds 42-45", "device": "cpu", "gpu": None, "cpu": "Example CPU", "cores": 2,
    "memory_bytes": 8 * 2**30, "platform": "Linux", "threads_per_seed": 1, "seeds_side_by_side": 2,
    "versions": {"python": "3.11.2", "leapverify": "0.1.0", "torch": "2.13.0"}, "started": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


def make_run(
    run: Path,
    seeds: tuple[int, ...] = (42, 43, 44, 45),
    settle: float = 2.4,
    lyapunov: bool = True,
    regimes: tuple[str, ...] = ("unknown", "chaotic", "transition", "stable"),
) -> Path:
    """A whole made-up run; `settle` below 1.5 leaves no stable checkpoint, `regimes` are those swept."""
    rng = np.random.default_rng(0)
    rows = _checkpoints(seeds, settle, rng, lyapunov)
    curve = [LossPoint(seed, step, _loss(seed, step)) for seed in seeds for step in range(5, STEPS + 1, 5)]
    return write_run(
        run, config_of(seeds), ENVIRONMENT, checkpoints=rows, curve=curve, predictions=_predictions(rows, regimes, rng),
        cascades=_cascades(rows, rng), seeds=_seed_measures(rows, rng),
    )  # fmt: skip


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up run with every part recorded."""
    return make_run(tmp_path_factory.mktemp("full") / "run")


@pytest.fixture(scope="session")
def full_page(full_run: Path) -> Path:
    """The report of the whole made-up run."""
    return build_report(full_run)


@pytest.fixture(scope="session")
def one_seed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One seed, no stable checkpoint, no Lyapunov pass."""
    return make_run(
        tmp_path_factory.mktemp("one") / "run", seeds=(42,), settle=1.2, lyapunov=False, regimes=("transition",)
    )


@dataclasses.dataclass(frozen=True)
class Maker:
    """The row makers, for tests that put a small run together by hand."""

    checkpoint: Callable[..., Checkpoint] = checkpoint
    prediction: Callable[..., Prediction] = prediction
    declined: Callable[..., Prediction] = declined
    measure: Callable[..., SeedMeasure] = measure
    write_run: Callable[..., Path] = write_run
    make_run: Callable[..., Path] = make_run


@pytest.fixture(scope="session")
def maker() -> Maker:
    """The row makers."""
    return Maker()
