"""The words of a verdict: said only where an interval over seeds is clear of the null, else 'cannot say'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leapverify.analysis.acceptance import Rate
from leapverify.analysis.over_seeds import Bootstrap, OverSeeds, summarise
from leapverify.analysis.pairs import mean_over_pairs
from leapverify.statistics import Interval

FEWEST_SEEDS = 3
"""With fewer, a bootstrap over seeds has hardly anything to draw from, and no claim is made from it."""
FEWEST_VALUES = 3
"""Of a seed: a median of fewer is hardly one, and no verdict is drawn from it."""


@dataclass(frozen=True)
class Finding:
    """One sentence or two on one question."""

    topic: str
    text: str


@dataclass(frozen=True)
class Tile:
    """One number worth a glance."""

    label: str
    value: str
    about: str


def verdict(low: float | None, high: float | None, seeds: int, null: float = 0.0) -> str | None:
    """'above' or 'below' where the interval excludes the null, else None: then nothing can be said.

    Args:
        low: lower end of the interval over seeds; None where there is none.
        high: upper end.
        seeds: behind the interval; fewer than three bear no verdict.
        null: the value that means nothing happened.
    """
    if seeds < FEWEST_SEEDS or low is None or high is None:
        return None
    return "above" if low > null else "below" if high < null else None


def beyond(rate: Rate, control: Rate) -> tuple[OverSeeds, str | None]:
    """The difference of two rates, paired by seed, and whether it is above or below 0.

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


def pairs_interval(values: Mapping[tuple[int, int], float]) -> tuple[Interval | None, int]:
    """Bootstrap interval over seeds of the mean over pairs of seeds, and how many seeds there are.

    Args:
        values: (seed, seed) -> value, each pair once.
    """
    seeds, mean = mean_over_pairs(values)
    return Bootstrap().interval(seeds, mean), len(seeds)


def interval_text(low: float | None, high: float | None, form: str, *, scale: float = 1.0, unit: str = "") -> str:
    """The interval in parentheses, or that there is none."""
    if low is None or high is None:
        return " (one seed, no interval)"
    return f" (95 % {low * scale:{form}} to {high * scale:{form}}{unit})"


def range_text(values: Sequence[float]) -> str:
    """'0.41 to 0.52', or one number where both ends read the same."""
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def listed(words: Sequence[str]) -> str:
    """'a', 'a and b' or 'a, b and c'."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def counted(count: int, noun: str) -> str:
    """'1 cell' or '3 cells'."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
