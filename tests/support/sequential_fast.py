"""The sequential paired test on many runs at once, and gains of no improvement to attack it with.

The fast form is held to the test itself, decision by decision (tests/verify/test_sequential_null.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from leapverify.verify.sequential import MINIMUM, SKEW_CAUTION, critical_t

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]
Stops = tuple[NDArray[np.bool_], NDArray[np.int64]]


class Evidence(NamedTuple):
    """What the test reads of each run (rows) at each look (columns)."""

    counts: NDArray[np.int64]
    t: Array
    skewness: Array


def evidence(gains: Array, looks: range | list[int]) -> Evidence:
    """t statistics and skewness of every row after so many gains, from power sums."""
    counts = np.array(looks)
    gains = gains / np.maximum(np.abs(gains).max(axis=1, keepdims=True), np.finfo(float).tiny)
    first, second, third = (np.cumsum(gains**power, axis=1)[:, counts - 1] / counts for power in (1, 2, 3))
    variance = np.maximum(second - first**2, 0.0)
    variance[variance < 1e-14 * second] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = (third - 3.0 * first * second + 2.0 * first**3) / variance**1.5
        skewness *= np.sqrt(counts * (counts - 1.0)) / (counts - 2.0)
        t = first / np.sqrt(variance / (counts - 1.0))
    return Evidence(counts, np.nan_to_num(t, nan=0.0), np.where(variance > 0.0, skewness, 0.0))


def sides(found: Evidence, alpha: float = 0.05, caution: float = SKEW_CAUTION) -> tuple[NDArray[np.bool_], ...]:
    """Whether the lower bound is above 0, and whether the upper one is below, at every look."""
    critical = np.array([critical_t(int(count), alpha) for count in found.counts])
    with np.errstate(invalid="ignore"):
        term = caution * (1.0 + 2.0 * critical**2) / (6.0 * np.sqrt(found.counts))
        up = found.t > critical + np.maximum(0.0, -found.skewness) * term
        down = -found.t > critical + np.maximum(0.0, found.skewness) * term
    return up, down


def first_decision(up: NDArray[np.bool_], down: NDArray[np.bool_]) -> Stops:
    """Whether each run is accepted when it stops at the first clear answer, and the look at which it stops."""
    clear = up | down
    stop = np.where(clear.any(axis=1), clear.argmax(axis=1), up.shape[1] - 1)
    return up[np.arange(len(up)), stop], stop


def accepted(gains: Array, looks: range | list[int], alpha: float = 0.05) -> Stops:
    """(whether accepted, gains seen) of each row."""
    found = evidence(gains, looks)
    hits, stop = first_decision(*sides(found, alpha))
    return hits, found.counts[stop]


def rounds(batch: int, budget: int) -> list[int]:
    """Gains after each round of `compare`: 16 to begin with, then 1, 2, 4, ... batches more, up to the budget."""
    counts, more = [-(-MINIMUM // batch) * batch], 1
    while (room := min(more, (budget - counts[-1]) // batch)) > 0:
        counts.append(counts[-1] + room * batch)
        more *= 2
    return counts


def exact_interval(hits: int, runs: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a rate."""
    found = stats.binomtest(hits, runs).proportion_ci(level, method="exact")
    return float(found.low), float(found.high)


def most(runs: int, rate: float, chance: float = 1e-7) -> int:
    """Hits that are exceeded with at most this chance if the rate is kept."""
    return int(stats.binom.isf(chance, runs, rate))


def log_normal(sigma: float, sign: float) -> Draw:
    """Log-normal values less their mean; sign 1 has the long tail on the side of gains, -1 on that of losses."""
    return lambda rng, shape: sign * (rng.lognormal(0.0, sigma, shape) - np.exp(sigma**2 / 2.0))


def two_valued(chance: float) -> Draw:
    """A loss of (1 - chance)/chance in `chance` of the sequences, a gain of 1 in all others."""
    return lambda rng, shape: np.where(rng.random(shape) < chance, -(1.0 - chance) / chance, 1.0)


def documents(windows: int, share: float, shuffled_set: int = 0) -> Draw:
    """Windows of one document, one after the other, that share a part of their variance.

    Args:
        windows: of a document.
        share: of the variance, the document's own (the correlation of two windows of one document).
        shuffled_set: where not 0, the windows of a set of so many are shuffled, and the first are given.
    """

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        runs, length = shape
        size = max(shuffled_set, length)
        own = np.repeat(rng.standard_normal((runs, -(-size // windows))), windows, axis=1)[:, :size]
        gains = np.sqrt(share) * own + np.sqrt(1.0 - share) * rng.standard_normal((runs, size))
        return rng.permuted(gains, axis=1)[:, :length] if shuffled_set else gains

    return draw


def token_weighted(slope: float) -> Draw:
    """Gains times tokens (8 to 512, log-uniform), noise as of a mean over the tokens; long sequences lose by `slope`.

    The token-weighted mean is 0: what long sequences lose, short ones gain.
    """

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        low, high = np.log(8.0), np.log(512.0)
        tokens = np.exp(rng.uniform(low, high, shape))
        mean = (512.0 - 8.0) / (high - low)
        centre = (512.0**2 - 8.0**2) / 2.0 / (high - low) / mean  # E[n^2]/E[n]
        gains = rng.standard_normal(shape) / np.sqrt(tokens) - slope * (tokens / centre - 1.0)
        return gains * tokens / mean

    return draw


def rounded(size: float) -> Draw:
    """Differences of losses near 3 that are kept in float32 (spacing 2.4e-7), as large as `size`: mostly ties."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        now = rng.normal(3.0, 0.3, shape)
        other = now - size * rng.standard_normal(shape)
        return now.astype(np.float32).astype(np.float64) - other.astype(np.float32).astype(np.float64)

    return draw


NULLS: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "uniform": lambda rng, shape: rng.uniform(-1.0, 1.0, shape),
    "Laplace": lambda rng, shape: rng.laplace(size=shape),
    "Student t5": lambda rng, shape: rng.standard_t(5, shape),
    "Student t3": lambda rng, shape: rng.standard_t(3, shape),
    "exponential, tail of gains": lambda rng, shape: rng.exponential(size=shape) - 1.0,
    "exponential, tail of losses": lambda rng, shape: 1.0 - rng.exponential(size=shape),
    "log-normal 0.5, tail of gains": log_normal(0.5, 1.0),
    "log-normal 0.5, tail of losses": log_normal(0.5, -1.0),
    "log-normal 1, tail of gains": log_normal(1.0, 1.0),
    "log-normal 1, tail of losses": log_normal(1.0, -1.0),
    "signs": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
    "signs, 90 % ties": lambda rng, shape: rng.choice([-1.0, 0.0, 1.0], shape, p=[0.05, 0.9, 0.05]),
    "whole numbers (Poisson)": lambda rng, shape: rng.poisson(1.0, shape) - rng.poisson(1.0, shape).astype(float),
    "tiny (1e-150)": lambda rng, shape: 1e-150 * rng.standard_normal(shape),
    "float32 losses that differ by 1e-7": rounded(1e-7),
    "float32 losses that differ by 1e-6": rounded(1e-6),
    "token weights 8 to 512": token_weighted(0.0),
    "token weights, long ones lose a little": token_weighted(0.05),
    "token weights, long ones lose": token_weighted(0.3),
    "spread that changes from gain to gain": lambda rng, shape: (
        rng.standard_normal(shape) * np.exp(rng.standard_normal(shape))
    ),
}
"""Gains of mean 0, independent of one another."""
