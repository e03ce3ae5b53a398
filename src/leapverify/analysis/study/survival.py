"""How much of the optimizer's updates survived the rounding of the weights, over the checkpoints of each seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leapverify.analysis.over_seeds import OverSeeds, summarise_all
from leapverify.io.records import Checkpoint

RATE_FLOOR = 0.01
"""Of a run's largest eta: below it updates are too small for float32 as well, and what is lost moves nothing."""


@dataclass(frozen=True)
class RegimeSurvival:
    """Of one regime: the mean over each seed's checkpoints, summarised over seeds."""

    regime: str
    share: OverSeeds
    """Of the weights that the optimizer meant to move, the share whose stored value changed."""
    projection: OverSeeds
    """How far the weights moved along the intended update: 1 as meant, 0 not at all."""


def recorded(checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether the study took samples of its updates."""
    return any(row.update_survival is not None for row in checkpoints)


def watched(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints whose eta is at least a hundredth of the largest at any of them."""
    peak = max((row.lr for row in checkpoints), default=0.0)
    return [row for row in checkpoints if row.lr >= RATE_FLOOR * peak]


def survival(checkpoints: Sequence[Checkpoint], regime: str) -> RegimeSurvival:
    """What survived in the steps that led to the `watched` checkpoints of a regime; infinite values are left out."""
    rows = [row for row in watched(checkpoints) if row.regime == regime]
    missing = f"no update was sampled at a {regime} checkpoint"
    share, projection = (
        summarise_all([(seed, value) for seed, value in found if math.isfinite(value)], missing=missing)
        for found in (
            [(row.seed, row.update_survival) for row in rows if row.update_survival is not None],
            [(row.seed, row.update_projection) for row in rows if row.update_projection is not None],
        )
    )
    return RegimeSurvival(regime, share, projection)
