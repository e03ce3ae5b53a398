"""The words of a verdict: said only where an interval over seeds is clear of the null, else 'cannot say'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leapverify.analysis.over_seeds import Bootstrap, OverSeeds, summarise
from leapverify.analysis.race.paired import Paired, Ratio
from leapverify.analysis.study.acceptance import Rate
from leapverify.analysis.study.pairs import mean_over_pairs
from leapverify.core.statistics import Interval

FEWEST_SEEDS = 3
"""With fewer, a bootstrap over seeds has hardly anything to draw from, and no claim is made from it."""
FEWEST_VALUES = 3
"""Of a seed: a median of fewer is hardly one, and no verdict is drawn from it."""


@dataclass(frozen=True)
class SummaryLine:
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


IN_NATS = ("pretrain", "finetune", "lora", "noise")
"""Tasks whose loss is in nats per token; that of the others is in the task's own unit."""


def unit_of(task: str) -> str:
    """' nats' where the task's loss is in nats, else nothing."""
    return " nats" if task in IN_NATS else ""


def numbers(*values: float) -> list[str]:
    """A few numbers of one kind, all with as many decimals as the largest of them bears; a true minus sign."""
    largest = max((abs(value) for value in values), default=0.0)
    form = ".4f" if 5e-4 <= largest < 1000 or largest == 0.0 else ".2g"
    return [format(value, form).replace("-", "−") for value in values]


def difference_text(found: Paired, unit: str, other: str) -> str:
    """'0.0012 nats (95 % −0.0030 to 0.0060) above the baseline (n = 8, p = 0.71)', the interval in the same sense."""
    if found.mean is None:
        return f"cannot be compared with {other} ({found.reason})"
    if found.mean == 0.0 and found.low == found.high:
        return f"exactly level with {other} ({basis(found)})"
    sign = -1.0 if found.mean < 0 else 1.0
    if found.low is None or found.high is None:
        shown, interval = numbers(sign * found.mean)[0], "one seed, no interval"
    else:
        low, high = sorted((sign * found.low, sign * found.high))
        shown, low_text, high_text = numbers(sign * found.mean, low, high)
        interval = f"95 % {low_text} to {high_text}"
    side = "below" if found.mean < 0 else "above"
    return f"{shown}{unit} ({interval}) {side} {other} ({basis(found)})"


def basis(found: Paired) -> str:
    """'n = 8, p = 0.71', and the seeds that had to be left out."""
    text = f"n = {found.seeds}" + (f", p = {p_text(found.p)}" if found.p is not None else "")
    left = found.arm_failed + found.other_failed
    return text + (f", {counted(left, 'seed')} left out: not finite" if left else "")


def p_text(p: float) -> str:
    """Two digits, and not below what can be said."""
    return f"{p:.2g}" if p >= 1e-4 else "less than 0.0001"


def ratio_text(found: Ratio) -> str:
    """'1.02 (95 % 1.00 to 1.04) times'; the reason where there is none."""
    if found.mean is None:
        return found.reason or "no ratio"
    if found.low is None or found.high is None:
        return f"{found.mean:.2f} (one seed, no interval) times"
    width = found.high - found.low
    form = ".3f" if width < 0.02 else ".2f" if found.high < 100 else ",.3g"
    return f"{found.mean:{form}} (95 % {found.low:{form}} to {found.high:{form}}) times"


def never_text(found: Ratio, arm: str, other: str) -> str:
    """Which seeds have no ratio, and whose fault it is; empty where all have one."""
    arm_never, other_never = found.other_only + found.neither, found.arm_only + found.neither
    parts = [
        f"{name} never reached the target on {count} of {found.seeds} seeds"
        for name, count in ((arm, arm_never), (other, other_never))
        if count
    ]
    if found.at_start:
        parts.append(f"on {counted(found.at_start, 'seed')} the target was met before the first step")
    return listed(parts)


def percent_text(found: OverSeeds, most: float | None) -> str:
    """'0.61 % (at most 0.80 %)'."""
    if found.mean is None or most is None:
        return f"an unknown share ({found.reason})"
    return f"{percent(found.mean)} (at most {percent(most)})"


def percent(value: float) -> str:
    """'0.61 %', '3.2 %' or '45 %'."""
    size = abs(value)
    return f"{value:{'.2f' if size < 1 else '.1f' if size < 10 else '.0f'}} %".replace("-", "−")


def listed(words: Sequence[str], last: str = " and ") -> str:
    """'a', 'a and b' or 'a, b and c'."""
    return last.join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def counted(count: int, noun: str) -> str:
    """'1 seed' or '3 seeds'."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
