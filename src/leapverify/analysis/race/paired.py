"""Two arms of a race on the same seeds: differences of losses, ratios of costs, and how sure one can be of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from leapverify.analysis.over_seeds import FEWEST_SEEDS, OverSeeds, fields_of, summarise

EXACT_SEEDS = 14
"""Up to so many seeds the sign-flip test goes through all 2^n assignments of signs."""
FEWEST_WINS = 6
"""Where one side never arrives there is no ratio; that many wins of as many seeds have p = 2^-6 < 0.025."""


def one_sided_p(differences: ArrayLike) -> float:
    """How often chance alone gives a mean as low as this one; small where the mean is below 0.

    Up to 14 values the exact sign-flip permutation test, p = #{s : sum_i s_i |d_i| <= sum_i d_i} / 2^n over all signs s
    (so never below 2^-n); with more, Student's t with n - 1 degrees of freedom.

    Args:
        differences: (n,) one paired difference a seed, any unit.

    Returns:
        p of the alternative "lower than 0".

    Raises:
        ValueError: there is no value, or one that is not finite.
    """
    values = np.asarray(differences, dtype=np.float64).ravel()
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"differences {values.tolist()} make no test: give at least one, all of them finite")
    if values.size <= EXACT_SEEDS:
        sums = np.zeros(1)
        for size in np.abs(values):
            sums = np.concatenate([sums - size, sums + size])
        rounding = 1e-12 * float(np.abs(values).sum())
        return float((sums <= values.sum() + rounding).mean())
    error = float(values.std(ddof=1)) / math.sqrt(values.size)
    if error == 0.0:
        return 0.5**values.size if values[0] < 0 else 1.0
    return float(stats.t.cdf(float(values.mean()) / error, values.size - 1))


@functools.lru_cache(maxsize=4096)
def _summary(items: tuple[tuple[int, float], ...], missing: str) -> OverSeeds:
    return summarise(dict(items), n=len(items), missing=missing)


def over_seeds(values: Mapping[int, float], missing: str) -> OverSeeds:
    """`summarise`, remembered: tables, figure and sentences of a race ask for the same hundreds of intervals.

    Args:
        values: seed -> value.
        missing: the reason to give where there is none.
    """
    return _summary(tuple(sorted(values.items())), missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired(OverSeeds):
    """Differences arm - other over the seeds where both are finite; below 0 the arm is lower."""

    p: float | None
    """One-sided, of "the arm is lower"; None without a seed."""
    test: str
    """sign-flip | t, or empty without a seed."""
    arm_failed: int
    """Seeds left out because the arm's value is not finite."""
    other_failed: int
    """Seeds left out because the other's value is not finite and the arm's is."""

    @property
    def lower(self) -> bool:
        """Whether the arm is lower beyond doubt: interval below 0, at least three seeds, none of the arm's lost."""
        return self.seeds >= FEWEST_SEEDS and self.high is not None and self.high < 0.0 and not self.arm_failed


Values = Mapping[int, float | None]
"""Seed -> value, None where it is not finite or was never reached."""


def paired_difference(arm: Values, other: Values, missing: str) -> Paired:
    """Mean over seeds of arm - other with its interval and one-sided p.

    Args:
        arm: seed -> value, None where it is not finite.
        other: the same of what it is compared with.
        missing: the reason to give where no seed has both.
    """
    seeds = sorted(arm.keys() & other.keys())
    pairs = {seed: (arm[seed], other[seed]) for seed in seeds}
    found = {seed: a - b for seed, (a, b) in pairs.items() if a is not None and b is not None}
    failed = sum(a is None for a, _ in pairs.values())
    reason = "no seed has a finite loss in both" if seeds else missing
    return Paired(
        **fields_of(over_seeds(found, reason)),
        p=one_sided_p(list(found.values())) if found else None,
        test="" if not found else "sign-flip" if len(found) <= EXACT_SEEDS else "t",
        arm_failed=failed,
        other_failed=len(seeds) - failed - len(found),
    )


def no_difference(reason: str) -> Paired:
    """The comparison that does not exist, and why."""
    return paired_difference({}, {}, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Costs to the target, arm over other: geometric mean over the seeds where both reached it."""

    mean: float | None
    low: float | None
    """Lower end of the bootstrap interval over seeds; needs two."""
    high: float | None
    per_seed: tuple[tuple[int, float], ...]
    """(seed, ratio) of each seed where both reached the target."""
    arm_only: int
    """Seeds where only the arm reached it."""
    other_only: int
    """Seeds where only the other did."""
    neither: int
    at_start: int
    """Seeds where one of them met the target before its first step, which has no ratio."""
    reason: str | None
    """Why there is no mean or no interval; None if there are both."""

    @property
    def n(self) -> int:
        """Seeds with a ratio."""
        return len(self.per_seed)

    @property
    def seeds(self) -> int:
        """Seeds that have both arms."""
        return self.n + self.arm_only + self.other_only + self.neither + self.at_start

    @property
    def lower(self) -> bool:
        """Whether the arm needs less beyond doubt: it reached the target on every seed, and the interval is below 1.

        A seed on which only the other failed has no ratio and is left out of the interval, which favours the other;
        where that leaves fewer than three, six wins of six seeds do instead.
        """
        if self.other_only or self.neither or self.at_start:
            return False
        if self.n >= FEWEST_SEEDS:
            return self.high is not None and self.high < 1.0
        return self.seeds >= FEWEST_WINS and all(ratio < 1.0 for _, ratio in self.per_seed)

    @property
    def higher(self) -> bool:
        """Whether the arm needs more beyond doubt, by the seeds where both reached the target."""
        return self.n >= FEWEST_SEEDS and self.low is not None and self.low > 1.0


def paired_ratio(arm: Values, other: Values, missing: str) -> Ratio:
    """Geometric mean over seeds of arm / other with its interval, exp of the mean and interval of the logarithms.

    Args:
        arm: seed -> cost up to the target, None where it was never reached.
        other: the same of what it is compared with.
        missing: the reason to give where no seed has both arms.
    """
    seeds = sorted(arm.keys() & other.keys())
    logs: dict[int, float] = {}
    counts = {"arm_only": 0, "other_only": 0, "neither": 0, "at_start": 0}
    for seed in seeds:
        a, b = arm[seed], other[seed]
        if a is None or b is None:
            counts["other_only" if b is not None else "arm_only" if a is not None else "neither"] += 1
        elif a <= 0.0 or b <= 0.0:
            counts["at_start"] += 1
        else:
            logs[seed] = math.log(a / b)
    found = over_seeds(logs, missing)
    return Ratio(
        mean=_exp(found.mean),
        low=_exp(found.low),
        high=_exp(found.high),
        per_seed=tuple((seed, math.exp(value)) for seed, value in logs.items()),
        reason=_why_no_ratio(len(logs), counts, missing),
        **counts,
    )


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)


def _why_no_ratio(n: int, counts: Mapping[str, int], missing: str) -> str | None:
    if n:
        return "one seed has no interval" if n == 1 else None
    ways: Sequence[tuple[str, str]] = (
        ("arm_only", "the other never reached the target"),
        ("other_only", "never reached the target"),
        ("neither", "neither reached the target"),
        ("at_start", "the target was met before the first step"),
    )
    said = [text for key, text in ways if counts[key]]
    return " or ".join(dict.fromkeys(said)) if said else missing


def no_ratio(reason: str) -> Ratio:
    """The comparison that does not exist, and why."""
    return paired_ratio({}, {}, reason)
