"""Statistics over seeds: one value a seed, its mean or spread, and a 95 % interval."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from scipy import stats

from leapverify.analysis.over_seeds import interval_over
from leapverify.core.statistics import Group


class PerSeed(NamedTuple):
    """One value a seed, and how many observations stand behind all of them."""

    values: Mapping[int, float] = {}
    n: int = 0

    def less(self, other: PerSeed) -> PerSeed:
        """The difference, over the seeds that both have."""
        both = {seed: value - other.values[seed] for seed, value in self.values.items() if seed in other.values}
        return PerSeed(both, self.n + other.n)


def seed_means(rows: Iterable[tuple[int, float]]) -> PerSeed:
    """The mean of every seed's values.

    Args:
        rows: (seed, value), one an observation.

    >>> seed_means([(1, 0.0), (1, 1.0), (2, 1.0)])
    PerSeed(values={1: 0.5, 2: 1.0}, n=3)
    """
    found: dict[int, list[float]] = defaultdict(list)
    for seed, value in rows:
        found[seed].append(value)
    return PerSeed({seed: float(np.mean(own)) for seed, own in found.items()}, sum(map(len, found.values())))


def averaged(parts: Iterable[PerSeed]) -> PerSeed:
    """The mean over several measurements of each seed, over those that have the seed; n of all of them."""
    every = list(parts)
    means = seed_means((seed, value) for part in every for seed, value in part.values.items())
    return PerSeed(means.values, sum(part.n for part in every))


@dataclass(frozen=True, slots=True)
class SeedEstimate:
    """One number with its 95 % interval over seeds."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """What stands behind it: checkpoints, predictions, pairs, as the quantity says."""
    seeds: int
    reason: str | None = None
    """Why the value or its interval is missing."""

    def through(self, monotone: Callable[[float], float]) -> SeedEstimate:
        """The estimate on another scale, given by an increasing function."""
        value, low, high = (None if x is None else monotone(x) for x in (self.value, self.low, self.high))
        return SeedEstimate(value, low, high, self.n, self.seeds, self.reason)


def nothing(reason: str) -> SeedEstimate:
    """An estimate without a value, and why there is none."""
    return SeedEstimate(None, None, None, 0, 0, reason)


def bootstrap_over_seeds(
    groups: Sequence[Group], statistic: Callable[[Sequence[Group]], float | None], n: int, missing: str
) -> SeedEstimate:
    """A statistic of all seeds, and its bootstrap interval over them.

    Args:
        groups: one element a seed.
        statistic: of any multiset of them; None where it does not exist.
        n: how many observations stand behind it.
        missing: the reason to give where there is no group.
    """
    if not groups:
        return nothing(missing)
    value = statistic(groups)
    if value is None or not math.isfinite(value):
        return SeedEstimate(None, None, None, n, len(groups), "there is nothing to compute it from")
    interval = interval_over(groups, statistic)
    low, high = interval or (None, None)
    return SeedEstimate(value, low, high, n, len(groups), None if interval else "too few seeds have it")


def mean_over_seeds(values: Mapping[int, float], n: int, missing: str = "no seed has a value") -> SeedEstimate:
    """Mean of one value a seed, with Student's interval: no verdict depends on how a bootstrap was drawn."""
    finite = [value for _, value in sorted(values.items()) if math.isfinite(value)]
    if not finite:
        return nothing(missing)
    mean, seeds = fmean(finite), len(finite)
    if seeds < 2:
        return SeedEstimate(mean, None, None, n, seeds, "too few seeds have it")
    reach = float(stats.t.ppf(0.975, seeds - 1)) * stdev(finite) / math.sqrt(seeds)
    return SeedEstimate(mean, mean - reach, mean + reach, n, seeds)


def share_over_seeds(values: Mapping[int, float], n: int, missing: str = "no seed has a value") -> SeedEstimate:
    """Mean of one share, or difference of shares, a seed.

    Where all seeds agree to the last digit, their spread of 0 is no measure of chance. The rule of three then stands
    in: 3/n to either side, the 95 % bound of a share that was 0 in n independent trials (those of a seed are not quite
    independent).
    """
    found = mean_over_seeds(values, n, missing)
    if found.value is None or found.low is None or found.low != found.high or n == 0:
        return found
    return SeedEstimate(found.value, found.value - 3.0 / n, found.value + 3.0 / n, n, found.seeds)


def rate_over_seeds(values: Mapping[int, float], n: int, missing: str = "no seed has a value") -> SeedEstimate:
    """Mean of one share a seed, its interval within 0 and 1."""
    return share_over_seeds(values, n, missing).through(lambda share: min(1.0, max(0.0, share)))


def spread_over_seeds(
    values: Sequence[float], *, relative: bool = False, missing: str = "no seed has it"
) -> SeedEstimate:
    """Sample standard deviation of one value a seed (relative: over their mean), with its chi-square interval.

    sqrt((n - 1) s^2 / chi2_{n-1}): exact for values that are normal over seeds. A bootstrap of so few draws repeats
    seeds too often and comes out too low.
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return nothing(missing if not values else "a spread needs two seeds, and finite values")
    free, std = len(values) - 1, stdev(values)
    scale = 1.0 / abs(fmean(values)) if relative else 1.0
    low, high = (std * math.sqrt(free / float(stats.chi2.ppf(q, free))) for q in (0.975, 0.025))
    return SeedEstimate(std * scale, low * scale, high * scale, len(values), len(values))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment of a family of p-values: p_(i) becomes max over j <= i of (m - j + 1) p_(j).

    Source: Holm 1979.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p))
        adjusted[name] = largest
    return adjusted
