"""Cascades, predictions upon predictions: what a link won, paired by start, beside the cascade of hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from leapverify.analysis.over_seeds import OverSeeds, summarise_all
from leapverify.io.records import CascadeLink

HOLD = "hold"
"""As a trained cascade it predicts nothing, yet its schedule jumps and it trains: what is left is the prediction."""
NO_HOLD = "hold was not run as a trained cascade in this run"
LinkStart = tuple[int, int, int, int, int]
"""(seed, step, depth, horizon, link)."""


def start_of(row: CascadeLink) -> LinkStart:
    """What names a link but its kind and predictor."""
    return row.seed, row.step, row.depth, row.horizon, row.link


def hold_losses(rows: Iterable[CascadeLink]) -> Mapping[LinkStart, float]:
    """Losses of hold's trained cascades, to pair others with; empty where none was run."""
    chosen = (row for row in rows if row.kind == "trained" and row.predictor == HOLD)
    return {start_of(row): row.loss for row in chosen if row.loss is not None and math.isfinite(row.loss)}


def over_starts(
    rows: Sequence[CascadeLink], value: Callable[[CascadeLink], float | None], missing: str = "no value"
) -> OverSeeds:
    """A value's mean over the starts of each seed, summarised over seeds; n counts starts."""
    found = ((row.seed, value(row)) for row in rows)
    known = [(seed, number) for seed, number in found if number is not None and math.isfinite(number)]
    return summarise_all(known, missing=missing)


def difference(loss: float | None, other: float | None) -> float | None:
    """loss - other, where both exist and are finite."""
    if loss is None or other is None or not (math.isfinite(loss) and math.isfinite(other)):
        return None
    return loss - other
