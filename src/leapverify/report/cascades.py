"""Cascades over starts and seeds: each seed's starts first, then the seeds; trained ones beside hold."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from leapverify.analysis.over_seeds import OverSeeds, summarise
from leapverify.records import CascadeLink

CONTROL = "hold"
"""As a trained cascade it predicts nothing, yet its schedule jumps and it trains: what is left is the prediction."""
NO_CONTROL = "hold was not run as a trained cascade in this run"
Start = tuple[int, int, int, int, int]
"""(seed, step, depth, horizon, link)."""


def start_of(row: CascadeLink) -> Start:
    """What names a link but its kind and predictor."""
    return row.seed, row.step, row.depth, row.horizon, row.link


def hold_losses(rows: Iterable[CascadeLink]) -> Mapping[Start, float]:
    """Losses of hold's trained cascades, to pair others with; empty where none was run."""
    chosen = (row for row in rows if row.kind == "trained" and row.predictor == CONTROL)
    return {start_of(row): row.loss for row in chosen if row.loss is not None and math.isfinite(row.loss)}


def over_starts(
    rows: Sequence[CascadeLink], value: Callable[[CascadeLink], float | None], missing: str = "no value"
) -> OverSeeds:
    """A value's mean over the starts of each seed, summarised over seeds; n counts starts."""
    known: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        found = value(row)
        if found is not None and math.isfinite(found):
            known[row.seed].append(found)
    return summarise({seed: fmean(v) for seed, v in known.items()}, n=sum(map(len, known.values())), missing=missing)


def difference(loss: float | None, other: float | None) -> float | None:
    """loss - other, where both exist and are finite."""
    if loss is None or other is None or not (math.isfinite(loss) and math.isfinite(other)):
        return None
    return loss - other
