"""One value per seed, summarised: the shape that every result over seeds has here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any, TypeVar

from leapverify.core.statistics import Interval, Spread, bootstrap_interval, mean_std_cov

Group = TypeVar("Group")


@dataclass(frozen=True, slots=True, kw_only=True)
class OverSeeds:
    """A mean over seeds with its spread; a field that does not exist is None and `reason` says why."""

    mean: float | None
    """Mean of the seeds' values."""
    std: float | None
    """Sample standard deviation of the seeds' values; needs two."""
    cov_percent: float | None
    """100 std / abs(mean); does not exist at a mean of 0."""
    low: float | None
    """Lower end of the bootstrap interval over seeds; needs two."""
    high: float | None
    n: int
    """Values behind the seeds' values (predictions, checkpoints)."""
    per_seed: tuple[tuple[int, float], ...]
    """(seed, value) of each seed that has one."""
    reason: str | None
    """Why the mean, the spread or the coefficient of variation is missing; None if nothing is."""

    @property
    def seeds(self) -> int:
        """Seeds that have a value."""
        return len(self.per_seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """How intervals over seeds are drawn."""

    draws: int = 2000
    level: float = 0.95
    seed: int = 0
    """Of the resampling, not of training."""

    def interval(
        self, groups: Sequence[Group], statistic: Callable[[Sequence[Group]], float | None]
    ) -> Interval | None:
        """The interval of a statistic over groups, as `leapverify.core.statistics.bootstrap_interval` draws it."""
        return bootstrap_interval(groups, statistic, seed=self.seed, level=self.level, draws=self.draws)


def summarise(
    values: Mapping[int, float], *, n: int, missing: str = "no values", bootstrap: Bootstrap | None = None
) -> OverSeeds:
    """Summarise one value per seed: mean, sample standard deviation, CoV and bootstrap interval over seeds.

    Args:
        values: seed -> value; seeds without a value are left out by the caller.
        n: how many observations stand behind all of the values.
        missing: the reason to give when no seed has a value.
        bootstrap: draws, level and seed of the interval.

    Returns:
        The summary. With one seed the mean alone exists.
    """
    per_seed = tuple(sorted(values.items()))
    if not per_seed:
        return _build(None, None, n, per_seed, missing)
    column = [value for _, value in per_seed]
    spread = mean_std_cov(column)
    reason = "one seed has no spread over seeds" if spread.std is None else None
    if spread.mean == 0.0:
        reason = reason or "a mean of 0 has no CoV"
    return _build(spread, (bootstrap or Bootstrap()).interval(column, fmean), n, per_seed, reason)


def fields_of(summary: OverSeeds) -> dict[str, Any]:
    """The fields of a summary, to build a result that says more."""
    return {field.name: getattr(summary, field.name) for field in fields(summary)}


def _build(
    spread: Spread | None,
    interval: Interval | None,
    n: int,
    per_seed: tuple[tuple[int, float], ...],
    reason: str | None,
) -> OverSeeds:
    mean, std, cov = spread or (None, None, None)
    low, high = interval or (None, None)
    cov_percent = None if cov is None else 100.0 * cov
    return OverSeeds(
        mean=mean, std=std, cov_percent=cov_percent, low=low, high=high, n=n, per_seed=per_seed, reason=reason
    )
