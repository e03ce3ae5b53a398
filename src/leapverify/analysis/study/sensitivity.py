"""How much the results hang on the two thresholds: everything again on a grid of (tau_low, tau_high)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from leapverify.analysis.study.acceptance import Rate, acceptance
from leapverify.analysis.study.agreement import Agreement, agreement
from leapverify.analysis.vocabulary import ALL, REGIMES
from leapverify.io.records import Checkpoint, Prediction


@dataclass(frozen=True, slots=True)
class SensitivityPoint:
    """What one pair of thresholds makes of the same run."""

    tau_low: float
    tau_high: float
    shares: tuple[tuple[str, float], ...]
    """(regime, share of the labelled checkpoints of all seeds)."""
    agreement: Agreement
    """Without chance levels."""
    acceptance: tuple[Rate, ...]
    """Of the given predictor, horizon and criterion: one per regime, then all regimes together."""
    n: int
    """Labelled checkpoints of all seeds (each seed's first has no similarity)."""

    def share(self, regime: str) -> float:
        """Share of one regime."""
        return dict(self.shares)[regime]

    def rate(self, regime: str) -> Rate:
        """Acceptance in one regime, or in `all`."""
        return next(rate for rate in self.acceptance if rate.regime == regime)


def relabel(similarity: float | None, tau_low: float, tau_high: float) -> str:
    """The regime of one recorded similarity: stable above tau_high, chaotic below tau_low (equation 2, strict).

    The same rule as the recognizer's, stated again so that the analysis needs nothing but records. A similarity that
    is not a number is chaotic: activations without a direction are not predictable.
    """
    if similarity is None:
        return "unknown"
    if similarity > tau_high:
        return "stable"
    return "transition" if tau_low <= similarity <= tau_high else "chaotic"


def threshold_sensitivity(
    checkpoints: Sequence[Checkpoint],
    predictions: Sequence[Prediction],
    grid: Iterable[tuple[float, float]],
    *,
    predictor: str = "linear",
    horizon: int = 5,
    criterion: str = "strict",
) -> list[SensitivityPoint]:
    """Label shares, agreement and acceptance for every pair of thresholds, from the recorded similarities.

    Labels follow equation 2 without hysteresis. Predictions keep their outcomes and move to the regime that their
    checkpoint now has; where the sweep left chaotic checkpoints out, none can come back, which each rate's n shows.

    Args:
        checkpoints: the records of all seeds.
        predictions: the sweep's rows of the same seeds.
        grid: pairs (tau_low, tau_high); `threshold_grid` makes a usual one.
        predictor, horizon (steps), criterion: whose acceptance is given.

    Returns:
        One point per pair, in the grid's order.

    Raises:
        ValueError: tau_low above tau_high; no checkpoints; unknown criterion.
    """
    chosen = [row for row in predictions if row.predictor == predictor and row.horizon == horizon]
    points = []
    for tau_low, tau_high in grid:
        if not tau_low <= tau_high:
            raise ValueError(f"thresholds ({tau_low}, {tau_high}) leave no order: tau_low must not exceed tau_high")
        rows = [dataclasses.replace(row, regime=relabel(row.similarity, tau_low, tau_high)) for row in checkpoints]
        label = {(row.seed, row.step): row.regime for row in rows}
        moved = [dataclasses.replace(row, regime=label.get((row.seed, row.step), row.regime)) for row in chosen]
        known = [row.regime for row in rows if row.regime != "unknown"]
        rates = acceptance(moved, criterion, regimes=(*REGIMES, ALL), predictors=[predictor], horizons=[horizon])
        shares = tuple((regime, known.count(regime) / max(1, len(known))) for regime in REGIMES)
        points.append(
            SensitivityPoint(tau_low, tau_high, shares, agreement(rows, shuffles=0), tuple(rates), len(known))
        )
    return points


def threshold_grid(
    checkpoints: Sequence[Checkpoint],
    *,
    low: Sequence[float] = (5, 10, 20, 30, 40, 50),
    high: Sequence[float] = (50, 60, 70, 80, 90, 95),
) -> list[tuple[float, float]]:
    """Pairs of percentiles of the similarities of all seeds, the pairs out of order left out.

    Args:
        checkpoints: the records of all seeds.
        low: percentiles for tau_low.
        high: percentiles for tau_high.

    Raises:
        ValueError: no checkpoint has a similarity.
    """
    known = [row.similarity for row in checkpoints if row.similarity is not None and np.isfinite(row.similarity)]
    if not known:
        raise ValueError("no checkpoint has a similarity: thresholds need at least two checkpoints of one seed")
    lows, highs = (np.percentile(known, percents).tolist() for percents in (low, high))
    return [(tau_low, tau_high) for tau_low in lows for tau_high in highs if tau_low <= tau_high]
