"""A study small enough for tests, and what it takes to compare two of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

MICRO: Mapping[str, Any] = {
    "seeds": [42],
    "model.layers": 1,
    "model.hidden": 16,
    "model.heads": 2,
    "model.context": 96,
    "training.steps": 60,
    "training.batch_size": 2,
    "training.sequence_length": 16,
    "training.warmup_steps": 3,
    "training.lr": 1e-3,
    "observe.interval_steps": 10,
    "regimes.thresholds": "fixed",
    "regimes.low": 0.9,
    "regimes.high": 0.95,
    "sweep.horizons": [5, 10, 20],
    "sweep.curve_every_steps": 5,
    "verify.sequences": 8,
    "verify.budget": 16,
    "verify.batch_sequences": 8,
    "verify.val_sequences": 8,
    "cascade.shapes": [[2, 5]],
    "cascade.max_starts": 1,
}

TIMES = {"predict_s", "verify_s", "seconds", "elapsed_s"}


def timeless(rows: list[Any]) -> list[dict[str, Any]]:
    """Rows as plain data without what a clock put in."""
    return [
        {key: value for key, value in dataclasses.asdict(row).items() if key not in TIMES and not key.endswith("_s")}
        for row in rows
    ]


def same_numbers(a: Any, b: Any) -> None:
    """Two studies hold the same rows."""
    for name in ("checkpoints", "curve", "predictions", "cascades", "seeds"):
        assert timeless(getattr(a, name)) == timeless(getattr(b, name)), name
