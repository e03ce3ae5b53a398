"""A micro study on several ranks of one machine, and what it takes to compare it with that of one process."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint.hf_storage  # before the fork, once for all ranks
import torch.distributed.fsdp
from torch import Tensor

from leapverify.config.study import StudyConfig
from leapverify.core.ranks import ranks_of_world
from leapverify.runs.on_ranks import over_ranks
from leapverify.runs.progress import Watcher, ignore
from leapverify.study.folder import Study
from leapverify.study.run import run_study
from processes import run_ranks

TOLERANCE = 1e-6

SMALL: Mapping[str, Any] = {
    "training__steps": 30,
    "training__batch_size": 3,
    "verify__batch_sequences": 5,
    "verify__selection_sequences": 5,
    "sweep__horizons": [5],
    "sweep__predictors": ["hold", "linear", "momentum", "adam", "rre", "ema-posthoc", "fast-forward", "introspection"],
    "cascade__predictors": ["linear"],
    "cascade__trained_predictors": ["linear"],
}
"""Rows that do not divide by ranks, and predictors that remember, choose among candidates and read moments."""

SMALLEST: Mapping[str, Any] = {
    **SMALL,
    "training__steps": 20,
    "sweep__predictors": ["linear", "adam"],
    "cascade__kinds": [],
}


def spread_study(
    config: StudyConfig, out: Path, size: int, watch: Callable[[], Watcher] = lambda: ignore, **options: Any
) -> list[str | None]:
    """Run a study on so many ranks; what each of them raised, as `Type: text`.

    Args:
        config: the study.
        out: its folder.
        size: ranks.
        watch: makes rank 0's watcher, in its process.
        options: of `run_study`.
    """

    def work() -> str | None:
        torch.set_num_threads(1)
        ranks = ranks_of_world(patience_s=60.0)
        watcher = watch()
        try:
            over_ranks(
                ranks,
                lambda execution: run_study(config, out, device="cpu", execution=execution, watcher=watcher, **options),
            )
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    return run_ranks(size, work)


def near(a: Study, b: Study) -> None:
    """Two studies are one within rounding: weights, losses, regimes, rows and what predictions are worth."""
    last = a.config.training.steps
    assert _apart(a.weights(42, last), b.weights(42, last)) <= TOLERANCE
    for name in ("checkpoints", "curve", "predictions", "cascades"):
        left, right = getattr(a, name), getattr(b, name)
        assert len(left) == len(right), name
        for one, other in zip(left, right, strict=True):
            _near(one, other, name)


_LOSSES = (
    "train_loss",
    "heldout_loss",
    "val_loss",
    "loss_now",
    "loss_predicted",
    "loss_actual",
    "loss",
    "weight_drift",
)
_SAME = ("seed", "step", "regime", "predictor", "horizon", "status", "kind", "link", "depth", "tokens")


def _near(one: Any, other: Any, name: str) -> None:
    for field in _SAME:
        assert getattr(one, field, None) == getattr(other, field, None), (name, field, one, other)
    for field in (*_LOSSES, "similarity", "straightness", "update_survival", "update_projection"):
        left, right = getattr(one, field, None), getattr(other, field, None)
        if left is None or right is None:
            assert left == right, (name, field, one, other)
        else:
            assert abs(left - right) <= _tolerance(field, one, left), (name, field, one, other)


def _tolerance(field: str, row: Any, value: float) -> float:
    # A prediction that explodes multiplies the rounding of the weights as it does the weights.
    far = field == "loss_predicted" and value > 2 * getattr(row, "loss_now", math.inf)
    return (10.0 if far else 1.0) * TOLERANCE * max(1.0, abs(value))


def _apart(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """norm(a - b) / norm(a)."""
    assert sorted(a) == sorted(b)
    difference = sum(float((a[name].double() - b[name].double()).square().sum()) for name in a)
    return (difference / sum(float(each.double().square().sum()) for each in a.values())) ** 0.5
