"""One value per seed, summarised: the shape that every result over seeds has here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

from leapverify.core.statistics import Group, Interval, bootstrap_interval, mean_std_cov

FEWEST_SEEDS = 3
"""With fewer, an interval over seeds decides nothing: a bootstrap has hardly anything to draw from."""


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


def interval_over(groups: Sequence[Group], statistic: Callable[[Sequence[Group]], float | None]) -> Interval | None:
    """The 95 % bootstrap interval of a statistic over seeds, always from the same draws."""
    return bootstrap_interval(groups, statistic, seed=0)


def summarise(values: Mapping[int, float], *, n: int, missing: str = "no values") -> OverSeeds:
    """Summarise one value per seed: mean, sample standard deviation, CoV and 95 % bootstrap interval over seeds.

    Args:
        values: seed -> value; seeds without a value are left out by the caller.
        n: how many observations stand behind all of the values.
        missing: the reason to give when no seed has a value.

    Returns:
        The summary. With one seed the mean alone exists.

    >>> found = summarise({42: 0.2, 43: 0.4}, n=10)
    >>> round(found.mean, 2), round(found.std, 2), found.seeds
    (0.3, 0.14, 2)
    """
    per_seed = tuple(sorted(values.items()))
    column = [value for _, value in per_seed]
    mean, std, cov = mean_std_cov(column) if column else (None, None, None)
    low, high = (interval_over(column, fmean) if column else None) or (None, None)
    reason = missing if mean is None else "one seed has no spread over seeds" if std is None else None
    if mean == 0.0:
        reason = reason or "a mean of 0 has no CoV"
    return OverSeeds(
        mean=mean, std=std, cov_percent=None if cov is None else 100.0 * cov, low=low, high=high, n=n,
        per_seed=per_seed, reason=reason,
    )  # fmt: skip


def by_seed(values: Iterable[tuple[int, float]]) -> dict[int, list[float]]:
    """(seed, value) pairs as seed -> its values, in the order given."""
    found: dict[int, list[float]] = defaultdict(list)
    for seed, value in values:
        found[seed].append(value)
    return dict(found)


def summarise_all(
    values: Iterable[tuple[int, float]],
    centre: Callable[[Sequence[float]], float] = fmean,
    *,
    missing: str = "no values",
) -> OverSeeds:
    """Take the centre of each seed's values, then summarise over seeds; `n` counts the values.

    Args:
        values: (seed, value), any number a seed.
        centre: of one seed's values, a mean or a median.
        missing: the reason to give when there is no value.
    """
    of_seed = by_seed(values)
    centres = {seed: float(centre(column)) for seed, column in of_seed.items()}
    return summarise(centres, n=sum(map(len, of_seed.values())), missing=missing)


def fields_of(summary: OverSeeds) -> dict[str, Any]:
    """The fields of a summary, to build a result that says more."""
    return {field.name: getattr(summary, field.name) for field in fields(OverSeeds)}
