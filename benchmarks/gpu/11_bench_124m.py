"""Job 11: every predictor on the bench at GPT-2 124M: seeds 42 and 43, 1000 steps of pre-training, Delta = 100.

Ten checkpoints a seed, weights and moments kept: 30 GB of disk for both, given back once the bench has read them. The
published NiNo checkpoints are benched where the folder `nino` holds them.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from job import Part, Sitting, TimeOver, found, let_go, run_job, tell

from leapverify.bench.run import bench_predictors
from leapverify.runs import Paused
from leapverify.study.run import run_study

STEPS, INTERVAL, PERSIST_EVERY = 1000, 100, 3
HORIZONS = (25, 50, 100, 200)
FEW = ("hold", "linear", "lawa-5", "fast-forward")
"""Of the reduced bench."""
NINO = Path("nino")
"""Where the published NiNo checkpoints are looked for."""


def bench(sitting: Sitting) -> Mapping[str, Any]:
    """The study keeps its weights until the bench has read them, so both are one part that goes on by itself."""
    whole = {"observe__interval_steps": INTERVAL, "sweep__horizons": list(HORIZONS), "sweep__curve_every_steps": 25}
    config = sitting.config(
        "gpt2-124m",
        STEPS,
        seeds=[42, 43],
        sweep__predictors=["hold"],
        cascade__kinds=[],
        snapshots__weights="all",
        snapshots__optimizer="all",
        **({} if sitting.reduced else whole),
    )
    folder = sitting.state / "study"
    options: dict[str, Any] = {"predictors": FEW} if sitting.reduced else {}
    try:
        run_study(config, folder, device=sitting.device, watcher=tell, minutes=sitting.minutes_left)
        choice = bench_predictors(
            folder,
            persist_every=PERSIST_EVERY,
            nino=NINO if NINO.is_dir() else None,
            device=sitting.device,
            watcher=tell,
            minutes=sitting.minutes_left,
            **options,
        )
    except Paused as paused:
        raise TimeOver(str(paused)) from paused
    let_go(folder)
    return found(len(config.seeds), left_out=dict(choice.left_out), tables=_tables(folder))


def _tables(folder: Path) -> dict[str, list[dict[str, str]]]:
    tables = {}
    for path in sorted((folder / "tables").glob("bench-*.csv")):
        with path.open(newline="") as lines:
            tables[path.stem] = list(csv.DictReader(lines))
    return tables


PARTS = (Part("bench", bench, minutes=3),)

if __name__ == "__main__":
    sys.exit(run_job(11, PARTS))
