"""How often predictions are accepted and what they gain: per regime, predictor and horizon, over seeds.

A declined prediction was never made: it is left out of every rate and counted beside it. A prediction that is not
finite was made and is rejected.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from leapverify.analysis.over_seeds import FEWEST_SEEDS, OverSeeds, fields_of, summarise, summarise_all
from leapverify.analysis.vocabulary import ALL, CRITERIA, LABELS
from leapverify.analysis.wording import verdict
from leapverify.core.statistics import wilson
from leapverify.io.records import Prediction

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


class SweepCell(NamedTuple):
    """One cell of a table of predictions; the key by which results are looked up."""

    regime: str
    predictor: str
    horizon: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSummary(OverSeeds):
    """A number of one cell of the sweep, over seeds."""

    regime: str
    predictor: str
    horizon: int
    declined: int
    nonfinite: int

    @property
    def cell(self) -> SweepCell:
        """Regime, predictor and horizon."""
        return SweepCell(self.regime, self.predictor, self.horizon)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate(CellSummary):
    """The acceptance rate (0 to 1) in one cell: mean over seeds of each seed's rate; the non-finite are rejected."""

    criterion: str
    accepted: int
    """Of `n` predictions that were made and judged."""
    unjudged: int
    """Made, finite, but without a verdict by this criterion: left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellAverage(CellSummary):
    """A quantity's centre in one cell: mean over seeds of each seed's mean or median."""

    quantity: str
    centre: str
    """mean | median, within a seed."""
    missing: int
    """Finite predictions for which the quantity does not exist (the loss was never reached, the run had ended)."""


def acceptance(
    predictions: Sequence[Prediction],
    criterion: str,
    *,
    regimes: Sequence[str] | None = None,
    predictors: Sequence[str] | None = None,
    horizons: Sequence[int] | None = None,
) -> list[Rate]:
    """Acceptance rates of every cell asked for, empty ones with their reason.

    rate(seed) = accepted / judged, where judged holds the non-finite; mean, std, CoV and interval are over seeds that
    judged at least one.

    Args:
        predictions: the sweep's rows of any number of seeds.
        criterion: strict | adaptive | proximity | paired.
        regimes, predictors, horizons: the cells; by default all that occur. The regime "all" takes every prediction.

    Returns:
        One row per cell, by regime, then predictor, then horizon (steps).

    Raises:
        ValueError: unknown criterion or regime.

    Source: Leap+Verify, Tables 7 to 10 (mean ± std over seeds, CoV).
    """
    require_known("criterion", criterion, CRITERIA)
    return [_rate(cell, rows, criterion) for cell, rows in _cells(predictions, regimes, predictors, horizons)]


def averages(
    predictions: Sequence[Prediction],
    quantity: str,
    *,
    centre: str = "mean",
    regimes: Sequence[str] | None = None,
    predictors: Sequence[str] | None = None,
    horizons: Sequence[int] | None = None,
) -> list[CellAverage]:
    """A quantity of the finite predictions, averaged within each seed and then over seeds.

    Args:
        predictions: the sweep's rows of any number of seeds.
        quantity: a name in `QUANTITIES`. A `steps_gained` that does not exist is larger than the run could show, a
            gain fraction that does not exist has no gain to compare with: both are left out and counted as `missing`.
        centre: mean | median, within a seed. Ratios with small denominators want the median.
        regimes, predictors, horizons: the cells, as in `acceptance`.

    Returns:
        One row per cell, in the order of `acceptance`.

    Raises:
        ValueError: unknown quantity, centre or regime.
    """
    require_known("quantity", quantity, QUANTITIES)
    require_known("centre", centre, CENTRES)
    return [_average(cell, rows, quantity, centre) for cell, rows in _cells(predictions, regimes, predictors, horizons)]


def _cells(
    predictions: Sequence[Prediction],
    regimes: Sequence[str] | None,
    predictors: Sequence[str] | None,
    horizons: Sequence[int] | None,
) -> Iterator[tuple[SweepCell, list[Prediction]]]:
    """Every cell asked for with its predictions, which may be none."""
    rows: dict[SweepCell, list[Prediction]] = defaultdict(list)
    for row in predictions:
        rows[SweepCell(row.regime, row.predictor, row.horizon)].append(row)
        rows[SweepCell(ALL, row.predictor, row.horizon)].append(row)
    seen = {cell.regime for cell in rows}
    wanted = [name for name in LABELS if name in seen] if regimes is None else regimes
    names = list(dict.fromkeys(row.predictor for row in predictions)) if predictors is None else predictors
    steps = sorted({row.horizon for row in predictions}) if horizons is None else horizons
    for regime in wanted:
        require_known("regime", regime, (*LABELS, ALL))
    for cell in (SweepCell(regime, name, horizon) for regime in wanted for name in names for horizon in steps):
        yield cell, rows.get(cell, [])


def _rate(cell: SweepCell, rows: Sequence[Prediction], criterion: str) -> Rate:
    made = [row for row in rows if row.status != "declined"]
    verdicts = [(row.seed, False if row.status == "nonfinite" else getattr(row, criterion)) for row in made]
    judged = [(seed, said) for seed, said in verdicts if said is not None]
    missing = _why_empty(rows, f"none was judged by {criterion}")
    summary = summarise_all(judged, CENTRES["mean"], missing=missing)
    accepted = sum(said for _, said in judged)
    low, high = _bounds(summary, accepted)
    return Rate(
        **{**_fields(cell, rows, summary), "low": low, "high": high},
        criterion=criterion,
        accepted=accepted,
        unjudged=len(made) - len(judged),
    )


def _bounds(summary: OverSeeds, accepted: int) -> tuple[float | None, float | None]:
    """The interval of a rate, within 0 and 1.

    Where every seed has the rate 0, or every seed 1, their spread says nothing: Wilson's interval of the pooled tries
    then stands in, which treats them as independent.
    """
    if summary.low is None or summary.high is None:
        return None, None
    if {value for _, value in summary.per_seed} in ({0.0}, {1.0}):
        found = wilson(accepted, summary.n)
        return found.low, found.high
    return max(0.0, summary.low), min(1.0, summary.high)


def _average(cell: SweepCell, rows: Sequence[Prediction], quantity: str, centre: str) -> CellAverage:
    finite = [(row.seed, QUANTITIES[quantity](row)) for row in rows if row.status == "ok"]
    known = [(seed, float(value)) for seed, value in finite if value is not None and np.isfinite(value)]
    missing = _why_empty(rows, f"{quantity} does not exist for any of them")
    summary = summarise_all(known, CENTRES[centre], missing=missing)
    return CellAverage(
        **_fields(cell, rows, summary), quantity=quantity, centre=centre, missing=len(finite) - len(known)
    )


def _fields(cell: SweepCell, rows: Sequence[Prediction], summary: OverSeeds) -> dict[str, Any]:
    status = Counter(row.status for row in rows)
    counts = {"declined": status["declined"], "nonfinite": status["nonfinite"]}
    return {**fields_of(summary), **cell._asdict(), **counts}


def _why_empty(rows: Sequence[Prediction], otherwise: str) -> str:
    """Why a cell has no value: nothing was tried there, all was declined, all blew up, or what the caller says."""
    if not rows:
        return "no prediction was tried here"
    if all(row.status == "declined" for row in rows):
        return f"all {len(rows)} declined: {rows[0].reason or 'no reason recorded'}"
    if all(row.status != "ok" for row in rows):
        return f"{sum(row.status == 'nonfinite' for row in rows)} predictions, none finite"
    return otherwise


def rate_difference(rate: Rate, control: Rate) -> tuple[OverSeeds, str | None]:
    """The difference of two rates, paired by seed, and whether it is 'above' or 'below' 0; None: cannot be said.

    Where every seed has the same difference its bootstrap has no width; the two rates' own intervals then have to be
    apart.

    Args:
        rate: the acceptance of a predictor.
        control: that of the control, in the same regime at the same horizon by the same criterion.

    Returns:
        The per-seed differences summarised over the seeds that have both, and the verdict or None.
    """
    null = dict(control.per_seed)
    per_seed = {seed: value - null[seed] for seed, value in rate.per_seed if seed in null}
    found = summarise(per_seed, n=min(rate.n, control.n), missing="no seed has both")
    if found.low != found.high or found.low is None:
        return found, verdict(found.low, found.high, found.seeds)
    if None in (rate.low, rate.high, control.low, control.high) or found.seeds < FEWEST_SEEDS:
        return found, None
    apart = (rate.low or 0.0) > (control.high or 0.0), (rate.high or 0.0) < (control.low or 0.0)
    return found, "above" if apart[0] else "below" if apart[1] else None


def require_known(what: str, name: str, names: Collection[str]) -> None:
    """Refuse a name that is not among the names.

    Raises:
        ValueError: it is not; the message lists them.
    """
    if name not in names:
        raise ValueError(f"unknown {what} {name!r}: choose one of {', '.join(names)}")
