"""Small statistics with their intervals: bootstrap over groups (seeds), AUC, proportions, rank correlation."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Group = TypeVar("Group")


class Interval(NamedTuple):
    """Lower and upper end of a confidence interval."""

    low: float
    high: float


class Spread(NamedTuple):
    """Mean, sample standard deviation and coefficient of variation of a few values."""

    mean: float
    std: float | None
    """sqrt(sum (x - mean)^2/(n - 1)); None for a single value."""
    cov: float | None
    """std/abs(mean); None for a single value or a mean of 0."""


def mean_std_cov(values: ArrayLike) -> Spread:
    """Mean, sample standard deviation (n - 1) and coefficient of variation.

    Raises:
        ValueError: there is no value.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    if array.size == 0:
        raise ValueError("no values were given: a mean needs at least one")
    mean = float(array.mean())
    std = float(array.std(ddof=1)) if array.size > 1 else None
    return Spread(mean, std, std / abs(mean) if std is not None and mean != 0.0 else None)


@functools.lru_cache(maxsize=64)
def _resamples(groups: int, draws: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bootstrap resamples of group indices as distinct multisets (m, groups) and how often each was drawn (m,).

    Five seeds have only 126 distinct resamples: a statistic evaluated once for each costs 16 times less.
    """
    drawn = np.sort(np.random.default_rng(seed).integers(groups, size=(draws, groups)), axis=1)
    distinct, counts = np.unique(drawn, axis=0, return_counts=True)
    return distinct, counts


FEW_GROUPS = 8
"""Below so many, percentiles end at the range of the groups, which covers at most 1 - 2^(1-n)."""


def _interval(
    values: NDArray[np.float64], counts: NDArray[np.int64], estimate: float | None, groups: int, level: float
) -> Interval | None:
    """Interval from resampled statistics; None if fewer than half of them exist."""
    known = np.isfinite(values)
    if counts[known].sum() * 2 < counts.sum() or estimate is None or not math.isfinite(estimate):
        return None
    if groups < FEW_GROUPS:
        return _t_scaled(values[known], counts[known], estimate, groups, level)
    wide = math.sqrt(groups / (groups - 1)) * stats.t.ppf((1.0 - level) / 2.0, groups - 1)
    tail = float(stats.norm.cdf(wide))
    low, high = np.quantile(np.repeat(values[known], counts[known]), [tail, 1.0 - tail])
    return Interval(float(low), float(high))


def _t_scaled(
    values: NDArray[np.float64], counts: NDArray[np.int64], estimate: float, groups: int, level: float
) -> Interval:
    """estimate +- t_{n-1} sqrt(n/(n-1)) times the standard deviation of the resampled statistic."""
    mean = np.average(values, weights=counts)
    error = math.sqrt(float(np.average((values - mean) ** 2, weights=counts)) * groups / (groups - 1))
    reach = float(stats.t.ppf(0.5 + level / 2.0, groups - 1)) * error
    return Interval(estimate - reach, estimate + reach)


def _check_bootstrap(level: float, draws: int) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level = {level} is no confidence level: give a number between 0 and 1, such as 0.95")
    if draws < 1:
        raise ValueError(f"draws = {draws} is no number of resamples: give at least 1, such as 2000")


def bootstrap_interval(
    groups: Sequence[Group],
    statistic: Callable[[Sequence[Group]], float | None],
    *,
    seed: int,
    level: float = 0.95,
    draws: int = 2000,
) -> Interval | None:
    """Bootstrap interval of a statistic over groups: whole groups (seeds) are drawn with replacement.

    From eight groups on: percentiles Phi(+-sqrt(n/(n-1)) t_{n-1}) of the resampled statistic, which is as wide for a
    mean as Student's interval (the plain percentile interval is too narrow by sqrt((n-1)/n) and by t against z).
    With fewer, percentiles would end at the range of the groups, which covers at most 1 - 2^(1-n); the interval is
    then the statistic +- t_{n-1} times its bootstrap standard error, sqrt(n/(n-1)) included: for a mean, Student's
    interval. It may leave the range of possible values; the caller clips it where there is one.

    Args:
        groups: one element a group, of whatever the statistic takes.
        statistic: from a list of groups (some of them repeated, in no particular order) to a number; None or NaN
            where it does not exist.
        seed: of the resampling; the same seed gives the same interval.
        level: confidence level.
        draws: resamples.

    Returns:
        The interval; None with fewer than two groups, or if the statistic exists in less than half of the draws.

    Raises:
        ValueError: level or draws make no sense.

    Source: Hesterberg 2015, What teachers should know about the bootstrap (expanded percentiles, t-scaled errors).
    """
    _check_bootstrap(level, draws)
    if len(groups) < 2:
        return None
    distinct, counts = _resamples(len(groups), draws, seed)
    found = [statistic([groups[index] for index in row]) for row in distinct.tolist()]
    values = np.array([math.nan if value is None else value for value in found], dtype=np.float64)
    return _interval(values, counts, statistic(groups), len(groups), level)


def _split(scores: ArrayLike, successes: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values = np.asarray(scores, dtype=np.float64).ravel()
    hits = np.asarray(successes, dtype=bool).ravel()
    if values.size != hits.size:
        raise ValueError(f"{values.size} scores and {hits.size} successes do not pair: give one success a score")
    if np.isnan(values).any():
        raise ValueError(
            f"{int(np.isnan(values).sum())} of {values.size} scores are NaN and have no rank: leave them out"
        )
    return values[hits], values[~hits]


def _wins(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> float:
    """Pairs in which the success has the higher score, ties counted half."""
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left").sum()
    not_above = np.searchsorted(ordered, positives, side="right").sum()
    return 0.5 * float(below + not_above)


def auc(scores: ArrayLike, successes: ArrayLike) -> float | None:
    """Area under the ROC curve: how often a success scores higher than a failure, ties counted half.

    Args:
        scores: (n,) any unit, higher meant to announce success.
        successes: (n,) truth values.

    Returns:
        The area in [0, 1]; None where only one class occurs.

    Raises:
        ValueError: lengths differ or a score is NaN.
    """
    positives, negatives = _split(scores, successes)
    pairs = positives.size * negatives.size
    return _wins(positives, negatives) / pairs if pairs else None


Scored = tuple[ArrayLike, ArrayLike]
"""(scores, successes) of one group."""


def auc_interval(groups: Sequence[Scored], *, seed: int, level: float = 0.95, draws: int = 2000) -> Interval | None:
    """Bootstrap interval over groups (seeds) of the AUC of their pooled scores, within 0 and 1.

    The same numbers as `bootstrap_interval` of the pooled `auc`, with the same arguments, from the wins of every
    group's successes over every group's failures, which are counted once. None also if most resamples lack a class.
    """
    _check_bootstrap(level, draws)
    if len(groups) < 2:
        return None
    values, counts, whole = _resampled_auc(groups, draws, seed)
    found = _interval(values, counts, whole, len(groups), level)
    return found and Interval(max(0.0, found.low), min(1.0, found.high))


def auc_difference_interval(
    a: Sequence[Scored], b: Sequence[Scored], *, seed: int, level: float = 0.95, draws: int = 2000
) -> Interval | None:
    """`auc_interval` of AUC(a) - AUC(b): two signals for the same events, with the same resamples for both.

    Args:
        a: (scores, successes) of each seed by one signal.
        b: the same by the other, in the same order of seeds.
        seed, level, draws: as for `bootstrap_interval`.
    """
    _check_bootstrap(level, draws)
    if len(a) < 2:
        return None
    (one, counts, whole_a), (two, _, whole_b) = (_resampled_auc(groups, draws, seed) for groups in (a, b))
    whole = None if whole_a is None or whole_b is None else whole_a - whole_b
    return _interval(one - two, counts, whole, len(a), level)


def _resampled_auc(
    groups: Sequence[Scored], draws: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], float | None]:
    """The pooled AUC of every distinct resample, how often each was drawn, and that of all groups once."""
    split = [_split(scores, successes) for scores, successes in groups]
    wins = np.array([[_wins(positives, negatives) for _, negatives in split] for positives, _ in split])
    sizes = np.array([[positives.size, negatives.size] for positives, negatives in split])
    distinct, counts = _resamples(len(groups), draws, seed)
    weights = (distinct[:, :, None] == np.arange(len(groups))).sum(axis=1)
    pairs = (weights @ sizes).prod(axis=1)
    won = ((weights @ wins) * weights).sum(axis=1)
    values = np.divide(won, pairs, out=np.full(len(pairs), math.nan), where=pairs > 0)
    all_pairs = sizes.sum(axis=0).prod()
    return values, counts, float(wins.sum() / all_pairs) if all_pairs else None


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) with p = successes/n; [0, 1] for n = 0.

    Raises:
        ValueError: not 0 <= successes <= n, or level outside (0, 1).

    Source: Wilson 1927.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} make no proportion: give 0 <= successes <= n")
    _check_bootstrap(level, 1)
    if n == 0:
        return Interval(0.0, 1.0)
    share, z = successes / n, float(stats.norm.ppf(0.5 + level / 2.0))
    centre = share + z * z / (2 * n)
    width = z * math.sqrt(share * (1.0 - share) / n + z * z / (4 * n * n))
    scale = 1.0 + z * z / n
    return Interval(max(0.0, (centre - width) / scale), min(1.0, (centre + width) / scale))


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Rank correlation: Pearson's correlation of the ranks, ties at their mean rank.

    Args:
        a: (n,) values, any unit.
        b: (n,) values, any unit.

    Returns:
        A number in [-1, 1]; None with fewer than three pairs or where one side is constant.

    Raises:
        ValueError: lengths differ or a value is NaN.
    """
    first, second = np.asarray(a, dtype=np.float64).ravel(), np.asarray(b, dtype=np.float64).ravel()
    if first.size != second.size:
        raise ValueError(f"{first.size} and {second.size} values do not pair: give as many of one as of the other")
    if np.isnan(first).any() or np.isnan(second).any():
        raise ValueError("a NaN among the values has no rank: leave such pairs out")
    if first.size < 3 or np.ptp(first) == 0.0 or np.ptp(second) == 0.0:
        return None
    ranks = [stats.rankdata(side) - (side.size + 1) / 2.0 for side in (first, second)]
    return float(np.clip(ranks[0] @ ranks[1] / math.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])), -1.0, 1.0))
