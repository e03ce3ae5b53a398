"""How much of the optimizer's updates survived the rounding of the weights, over the checkpoints of each seed."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from leapverify.analysis.over_seeds import OverSeeds, summarise
from leapverify.io.records import Checkpoint


@dataclass(frozen=True)
class Survival:
    """Of one regime: the mean over each seed's checkpoints, summarised over seeds."""

    regime: str
    share: OverSeeds
    """Of the weights that the optimizer meant to move, the share whose stored value changed."""
    projection: OverSeeds
    """How far the weights moved along the intended update: 1 as meant, 0 not at all."""


def recorded(checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether the study took samples of its updates."""
    return any(row.update_survival is not None for row in checkpoints)


RATE_FLOOR = 0.01
"""Of a run's largest eta: below it updates are too small for float32 as well, and what is lost moves nothing."""


def watched(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints whose eta is at least a hundredth of the largest at any of them."""
    peak = max((row.lr for row in checkpoints), default=0.0)
    return [row for row in checkpoints if row.lr >= RATE_FLOOR * peak]


def survival(checkpoints: Sequence[Checkpoint], regime: str) -> Survival:
    """What survived in the steps that led to the `watched` checkpoints of a regime; infinite values are left out."""
    checkpoints = watched(checkpoints)
    share, projection = (_over_seeds(checkpoints, regime, name) for name in ("update_survival", "update_projection"))
    return Survival(regime, share, projection)


def _over_seeds(checkpoints: Sequence[Checkpoint], regime: str, name: str) -> OverSeeds:
    values: dict[int, list[float]] = defaultdict(list)
    for row in checkpoints:
        value = getattr(row, name)
        if row.regime == regime and value is not None and math.isfinite(value):
            values[row.seed].append(value)
    means = {seed: statistics.fmean(of_seed) for seed, of_seed in values.items()}
    missing = f"no update was sampled at a {regime} checkpoint"
    return summarise(means, n=sum(map(len, values.values())), missing=missing)
