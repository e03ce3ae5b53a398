"""Made-up race records: single runs with chosen fields, and one whole race in which each answer is known."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from leapverify.io import records
from leapverify.io.records import RacePoint, RaceRun

STEPS, EVERY, TOKENS = 400, 20, 1536
SEEDS = tuple(range(8))
RUN = RaceRun(
    task="pretrain", optimizer="adamw", rate="tuned", arm="baseline", seed=0, stage="race", lr=1e-3, setting="",
    steps=STEPS, real_steps=STEPS, effective_steps=STEPS, final_loss=2.2, target=2.21, target_step=360,
    target_tokens=360.0 * TOKENS, target_s=36.0, tokens=400.0 * TOKENS, seconds=40.0, overhead_tokens=0.0,
    overhead_s=0.0, attempts=0, accepted=0, leapt_steps=0, heldout_batches=0, heldout_passes=None,
)  # fmt: skip
NEVER: dict[str, Any] = {"target_step": None, "target_tokens": None, "target_s": None}


def race_run(**changes: Any) -> RaceRun:
    """One run with plausible values; `changes` replaces fields."""
    return dataclasses.replace(RUN, **changes)


def fields_of(run: RaceRun) -> dict[str, Any]:
    """Every field of a run, to make another from."""
    return dataclasses.asdict(run)


def of_arm(
    arm: str, losses: Sequence[float | None], costs: Sequence[float | None] = (), **changes: Any
) -> list[RaceRun]:
    """One arm over seeds 0, 1, ...: a final loss each, and forward tokens to the target (None: never)."""
    rows = []
    for seed, loss in enumerate(losses):
        goal: dict[str, Any] = {}
        if costs:
            cost = costs[seed]
            goal = NEVER if cost is None else {"target_tokens": cost, "target_s": cost / 1000.0}
        rows.append(race_run(arm=arm, seed=seed, final_loss=loss, **{**goal, **changes}))
    return rows


def race_point(run: RaceRun, step: int, loss: float | None, **changes: Any) -> RacePoint:
    """One reading of a run; tokens and seconds follow from the step unless given."""
    own = {name: getattr(run, name) for name in ("task", "optimizer", "rate", "arm", "seed", "stage", "lr", "setting")}
    base = RacePoint(**own, step=step, effective_step=step, tokens=float(step * TOKENS), seconds=step / 10.0, loss=loss)
    return dataclasses.replace(base, **changes)


# arm -> (final loss above the baseline's, share of the baseline's steps, cost to the target over the baseline's)
_PRETRAIN: dict[str, tuple[float, float, float | None]] = {
    "baseline": (0.0, 1.0, 1.0), "lr-x0.5": (0.05, 1.0, None), "lr-x2": (0.002, 1.0, 0.99), "lr-x4": (0.03, 1.0, None),
    "wsd": (-0.01, 1.0, 1.01), "constant": (0.04, 1.0, None), "anneal": (-0.03, 1.0, 0.9),
    "shortened:anneal": (0.0, 0.875, None), "schedule-free": (0.01, 1.0, 1.05), "ema": (0.004, 1.0, 1.0),
    "lawa": (0.002, 1.0, 0.97), "lookahead": (0.006, 1.0, 1.03), "always-accept": (0.2, 0.7, None),
    "shortened:always-accept": (0.03, 0.7, None), "always-reject": (0.0, 1.0, 1.02), "leap-fixed": (0.03, 0.8, None),
    "shortened:leap-fixed": (0.02, 0.8, None), "leap-line-search": (0.001, 0.99, 1.0),
    "shortened:leap-line-search": (0.0, 0.99, 1.0), "leap-auto": (0.0012, 0.98, 1.02),
    "shortened:leap-auto": (0.0, 0.98, 0.99), "shadow": (0.0, 1.0, 1.005),
}  # fmt: skip
_CONVEX: dict[str, tuple[float, float, float | None]] = {
    "baseline": (0.0, 1.0, 1.0), "lr-x2": (-0.0005, 1.0, 0.8), "lr-x4": (math.nan, 1.0, None), "ema": (0.001, 1.0, 1.1),
    "leap-auto": (-0.002, 0.5, 0.45), "shortened:leap-auto": (0.01, 0.5, None),
}  # fmt: skip
_NOISE: dict[str, tuple[float, float, float | None]] = {
    "baseline": (0.0, 1.0, 1.0), "lr-x2": (0.01, 1.0, 1.1), "leap-auto": (0.0, 1.0, 1.006), "shadow": (0.0, 1.0, 1.004),
}  # fmt: skip
CASES = (
    ("pretrain", "adamw", "tuned", _PRETRAIN, 2.2),
    ("pretrain", "muon", "tuned", _PRETRAIN, 2.1),
    ("finetune", "adamw", "tuned", _PRETRAIN, 1.9),
    ("finetune", "adamw", "usual", _PRETRAIN, 2.3),
    ("convex", "sgd", "tuned", _CONVEX, 0.011),
    ("noise", "adamw", "tuned", _NOISE, 5.6),
)


def whole_race(seeds: Sequence[int] = SEEDS) -> tuple[list[RaceRun], list[RacePoint]]:
    """Runs and readings of six cases: leaping pays on the convex task alone, annealing beats WSD by 50 steps or so."""
    rng = np.random.default_rng(0)
    runs, points = _tuning(), []
    for task, optimizer, rate, arms, floor in CASES:
        scale = floor / 2.2
        for seed in seeds:
            shift = floor + 0.01 * scale * rng.standard_normal()
            for arm, (above, share, cost) in arms.items():
                noise = 0.0 if task == "noise" else 0.0006 * scale * rng.standard_normal()
                final = shift + (above if task == "convex" else scale * above) + noise
                run = _finished(task, optimizer, rate, arm, seed, final, share, cost, 1 + 0.004 * rng.standard_normal())
                run = dataclasses.replace(run, target=1.005 * floor)
                runs.append(run)
                points += _course(run, shift, rng)
    return runs, points


def _finished(
    task: str,
    optimizer: str,
    rate: str,
    arm: str,
    seed: int,
    final: float,
    share: float,
    cost: float | None,
    jitter: float,
) -> RaceRun:
    real = round(share * STEPS)
    leaps = arm.startswith("leap-") or arm == "always-accept"
    spent = 0.006 if leaps or arm in ("shadow", "always-reject") else 0.05 if arm == "anneal" else 0.0
    tokens = real * TOKENS / (1 - spent)
    goal = NEVER
    if cost is not None and math.isfinite(final):
        goal = {"target_step": round(360 * min(cost, share)), "target_tokens": 360 * TOKENS * cost * jitter}
        goal |= {"target_s": 36.0 * cost * jitter**3}
    return race_run(
        task=task, optimizer=optimizer, rate=rate, arm=arm, seed=seed, real_steps=real,
        effective_steps=STEPS if leaps else real,
        final_loss=final if math.isfinite(final) else None, tokens=tokens, seconds=real / 10 / (1 - 2 * spent) * jitter,
        overhead_tokens=tokens * spent, overhead_s=real / 10 * 2 * spent, attempts=12 if leaps else 0,
        accepted=(4 if real < STEPS else 0) if leaps else 0, leapt_steps=STEPS - real if leaps else 0,
        heldout_batches=30 if spent else 0, heldout_passes=0.5 if spent else None,
        setting="decay 0.2" if arm == "wsd" else "", **goal,
    )  # fmt: skip


def _course(run: RaceRun, shift: float, rng: np.random.Generator) -> list[RacePoint]:
    out = []
    end = run.final_loss
    for step in [*range(0, run.real_steps, EVERY), run.real_steps]:
        done = step / run.real_steps
        start = 2.5 * shift if run.task != "convex" else 100.0
        loss = None
        if end is not None:
            # Annealing is there after seven eighths of its steps; the others fall all the way to their end.
            pace = min(1.0, done / 0.85) if run.arm == "anneal" else done
            loss = end + (start - end) * (1 - pace) ** 2 * math.exp(-4 * pace) + 1e-5 * abs(end) * rng.standard_normal()
        spent = run.tokens * done if step else 0.0
        seconds = run.seconds * done
        out.append(
            race_point(run, step, loss, tokens=spent, seconds=seconds, effective_step=round(run.effective_steps * done))
        )
    return out


def _tuning() -> list[RaceRun]:
    rows = []
    for seed in (1000, 1001):
        for index, lr in enumerate((2.5e-4, 5e-4, 1e-3, 2e-3)):
            loss = 2.2 + 0.02 * abs(index - 2) + 0.001 * (seed - 1000)
            rows.append(_tuned("baseline", seed, lr, loss))
            rows.append(_tuned("constant", seed, lr, 2.3 - 0.01 * index))
            rows.append(_tuned("wsd", seed, lr, loss - 0.01, "decay 0.2"))
        for share, better in ((0.1, 0.005), (0.4, 0.003)):
            rows.append(_tuned("wsd", seed, 1e-3, 2.19 + better, f"decay {share}"))
        rows.append(_tuned("schedule-free", seed, 1e-3, None))
    return rows


def _tuned(arm: str, seed: int, lr: float, loss: float | None, setting: str = "") -> RaceRun:
    return race_run(stage="tune", arm=arm, seed=seed, lr=lr, final_loss=loss, setting=setting, target=None, **NEVER)


ENVIRONMENT: dict[str, Any] = {
    "command": "leapverify race tiny --seeds 0-7", "cpu": "Example CPU", "cores": 2, "gpu": None,
    "versions": {"python": "3.11.2", "leapverify": "0.1.0", "torch": "2.13.0"},
}  # fmt: skip
CONFIG: dict[str, Any] = {"preset": "tiny", "seeds": list(SEEDS), "data": {"source": "stdlib"}}


def write_race(
    folder: Path,
    runs: Sequence[RaceRun],
    points: Sequence[RacePoint],
    config: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
) -> Path:
    """Write FOLDER/race as a race leaves it; returns FOLDER."""
    race = folder / "race"
    race.mkdir(parents=True, exist_ok=True)
    (race / "config.yaml").write_text(yaml.safe_dump(CONFIG if config is None else config))
    (race / "environment.json").write_text(json.dumps(ENVIRONMENT if environment is None else environment))
    (race / "targets.json").write_text(json.dumps({"pretrain": {"adamw": {"tuned": 2.21}}}))
    (race / "notes.json").write_text(json.dumps(["schedulefree is missing"]))
    records.write(race / "runs.parquet", RaceRun, runs)
    records.write(race / "curve.parquet", RacePoint, points)
    return folder
