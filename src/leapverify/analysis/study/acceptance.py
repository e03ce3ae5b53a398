"""How often predictions are accepted and what they gain: per regime, predictor and horizon, over seeds.

A declined prediction was never made: it is left out of every rate and counted beside it. A prediction that is not
finite was made and is rejected.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from leapverify.analysis.over_seeds import Bootstrap, OverSeeds, fields_of, summarise
from leapverify.analysis.study.timelines import REGIMES
from leapverify.core.statistics import wilson
from leapverify.io.records import Prediction

CRITERIA = ("strict", "adaptive", "proximity", "paired")
LABELS = ("unknown", *REGIMES)
ALL = "all"
"""As a regime: predictions from every regime."""

QUANTITIES: dict[str, Callable[[Prediction], float | None]] = {
    "gain_fraction": lambda row: row.gain_fraction,
    "steps_gained": lambda row: row.steps_gained,
    "gain": lambda row: None if row.loss_predicted is None else row.loss_now - row.loss_predicted,
    "loss_now": lambda row: row.loss_now,
    "loss_predicted": lambda row: row.loss_predicted,
    "loss_actual": lambda row: row.loss_actual,
    "loss_ratio": lambda row: None if row.loss_predicted is None else row.loss_predicted / row.loss_now,
    "predict_s": lambda row: row.predict_s,
    "verify_s": lambda row: row.verify_s,
}
"""What `averages` can average. `gain` = L_t - L_hat (nats per token), `loss_ratio` = L_hat / L_t."""

CENTRES: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": lambda values: float(np.mean(values)),
    "median": lambda values: float(np.median(values)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate(OverSeeds):
    """The acceptance rate (0 to 1) in one cell: mean over seeds of each seed's rate."""

    regime: str
    predictor: str
    horizon: int
    criterion: str
    accepted: int
    """Of `n` predictions that were made and judged."""
    declined: int
    nonfinite: int
    """Counted among the rejected."""
    unjudged: int
    """Made, finite, but without a verdict by this criterion: left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Average(OverSeeds):
    """A quantity's centre in one cell: mean over seeds of each seed's mean or median."""

    regime: str
    predictor: str
    horizon: int
    quantity: str
    centre: str
    """mean | median, within a seed."""
    missing: int
    """Finite predictions for which the quantity does not exist (the loss was never reached, the run had ended)."""
    declined: int
    nonfinite: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table of predictions."""

    regime: str
    predictor: str
    horizon: int


def acceptance(
    predictions: Sequence[Prediction],
    criterion: str,
    *,
    regimes: Sequence[str] | None = None,
    predictors: Sequence[str] | None = None,
    horizons: Sequence[int] | None = None,
    bootstrap: Bootstrap | None = None,
) -> list[Rate]:
    """Acceptance rates of every cell asked for, empty ones with their reason.

    rate(seed) = accepted / judged, where judged holds the non-finite; mean, std, CoV and interval are over seeds that
    judged at least one.

    Args:
        predictions: the sweep's rows of any number of seeds.
        criterion: strict | adaptive | proximity | paired.
        regimes, predictors, horizons: the cells; by default all that occur. The regime "all" takes every prediction.
        bootstrap: draws, level and seed of the interval.

    Returns:
        One row per cell, by regime, then predictor, then horizon (steps).

    Raises:
        ValueError: unknown criterion or regime.

    Source: Leap+Verify, Tables 7 to 10 (mean ± std over seeds, CoV).
    """
    require_known("criterion", criterion, CRITERIA)
    wanted = _cells(predictions, regimes, predictors, horizons)
    return [_rate(cell, rows, criterion, bootstrap) for cell, rows in wanted]


def averages(
    predictions: Sequence[Prediction],
    quantity: str,
    *,
    centre: str = "mean",
    regimes: Sequence[str] | None = None,
    predictors: Sequence[str] | None = None,
    horizons: Sequence[int] | None = None,
    bootstrap: Bootstrap | None = None,
) -> list[Average]:
    """A quantity of the finite predictions, averaged within each seed and then over seeds.

    Args:
        predictions: the sweep's rows of any number of seeds.
        quantity: a name in `QUANTITIES`. A `steps_gained` that does not exist is larger than the run could show, a
            gain fraction that does not exist has no gain to compare with: both are left out and counted as `missing`.
        centre: mean | median, within a seed. Ratios with small denominators want the median.
        regimes, predictors, horizons: the cells; by default all that occur. The regime "all" takes every prediction.
        bootstrap: draws, level and seed of the interval.

    Returns:
        One row per cell, in the order of `acceptance`.

    Raises:
        ValueError: unknown quantity, centre or regime.
    """
    require_known("quantity", quantity, QUANTITIES)
    require_known("centre", centre, CENTRES)
    wanted = _cells(predictions, regimes, predictors, horizons)
    return [_average(cell, rows, quantity, centre, bootstrap) for cell, rows in wanted]


def _cells(
    predictions: Sequence[Prediction],
    regimes: Sequence[str] | None,
    predictors: Sequence[str] | None,
    horizons: Sequence[int] | None,
) -> Iterator[tuple[Cell, list[Prediction]]]:
    """Every cell asked for with its predictions, which may be none."""
    rows: dict[Cell, list[Prediction]] = defaultdict(list)
    for row in predictions:
        rows[Cell(row.regime, row.predictor, row.horizon)].append(row)
        rows[Cell(ALL, row.predictor, row.horizon)].append(row)
    for regime in regimes or ():
        require_known("regime", regime, (*LABELS, ALL))
    seen = {cell.regime for cell in rows}
    for regime in [name for name in LABELS if name in seen] if regimes is None else regimes:
        for predictor in (
            list(dict.fromkeys(row.predictor for row in predictions)) if predictors is None else predictors
        ):
            for horizon in sorted({row.horizon for row in predictions}) if horizons is None else horizons:
                cell = Cell(regime, predictor, horizon)
                yield cell, rows.get(cell, [])


def _rate(cell: Cell, rows: Sequence[Prediction], criterion: str, bootstrap: Bootstrap | None) -> Rate:
    verdicts: dict[int, list[bool]] = defaultdict(list)
    unjudged = 0
    for row in rows:
        verdict = False if row.status == "nonfinite" else getattr(row, criterion)
        if row.status == "declined":
            continue
        if verdict is None:
            unjudged += 1
        else:
            verdicts[row.seed].append(verdict)
    status = Counter(row.status for row in rows)
    summary = summarise(
        {seed: float(np.mean(of_seed)) for seed, of_seed in verdicts.items()},
        n=sum(map(len, verdicts.values())),
        missing=_why_empty(rows, f"none was judged by {criterion}"),
        bootstrap=bootstrap,
    )
    low, high = _bounds(summary, sum(map(sum, verdicts.values())), bootstrap)
    return Rate(
        **{**fields_of(summary), "low": low, "high": high},
        **dataclasses.asdict(cell),
        criterion=criterion,
        accepted=sum(map(sum, verdicts.values())),
        declined=status["declined"],
        nonfinite=status["nonfinite"],
        unjudged=unjudged,
    )


def _bounds(summary: OverSeeds, accepted: int, bootstrap: Bootstrap | None) -> tuple[float | None, float | None]:
    """The interval of a rate, within 0 and 1.

    Where every seed has the rate 0, or every seed 1, their spread says nothing: Wilson's interval of the pooled tries
    then stands in, which treats them as independent.
    """
    if summary.low is None or summary.high is None:
        return None, None
    if {value for _, value in summary.per_seed} in ({0.0}, {1.0}):
        level = (bootstrap or Bootstrap()).level
        return tuple(wilson(accepted, summary.n, level))  # type: ignore[return-value]  # a pair is a pair
    return max(0.0, summary.low), min(1.0, summary.high)


def _average(
    cell: Cell, rows: Sequence[Prediction], quantity: str, centre: str, bootstrap: Bootstrap | None
) -> Average:
    values: dict[int, list[float]] = defaultdict(list)
    missing = 0
    for row in rows:
        value = QUANTITIES[quantity](row) if row.status == "ok" else None
        if value is not None and np.isfinite(value):
            values[row.seed].append(float(value))
        elif row.status == "ok":
            missing += 1
    status = Counter(row.status for row in rows)
    summary = summarise(
        {seed: CENTRES[centre](of_seed) for seed, of_seed in values.items()},
        n=sum(map(len, values.values())),
        missing=_why_empty(rows, f"{quantity} does not exist for any of them"),
        bootstrap=bootstrap,
    )
    return Average(
        **fields_of(summary),
        **dataclasses.asdict(cell),
        quantity=quantity,
        centre=centre,
        missing=missing,
        declined=status["declined"],
        nonfinite=status["nonfinite"],
    )


def _why_empty(rows: Sequence[Prediction], otherwise: str) -> str:
    """Why a cell has no value: nothing was tried there, all was declined, all blew up, or what the caller says."""
    if not rows:
        return "no prediction was tried here"
    if all(row.status == "declined" for row in rows):
        return f"all {len(rows)} declined: {rows[0].reason or 'no reason recorded'}"
    if all(row.status != "ok" for row in rows):
        return f"{sum(row.status == 'nonfinite' for row in rows)} predictions, none finite"
    return otherwise


def require_known(what: str, name: str, names: Collection[str]) -> None:
    """Refuse a name that is not among the names.

    Raises:
        ValueError: it is not; the message lists them.
    """
    if name not in names:
        raise ValueError(f"unknown {what} {name!r}: choose one of {', '.join(names)}")
