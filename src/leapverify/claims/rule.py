"""Rules that decide a claim: quantities with intervals over seeds, each with the line that it must lie beyond."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

from leapverify.analysis.over_seeds import FEWEST_SEEDS, interval_over
from leapverify.core.statistics import Group

STANDS, FALLS, OPEN = "stands", "falls", "not decided"


@dataclass(frozen=True, slots=True)
class Estimate:
    """One number with its 95 % interval over seeds."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """What stands behind it: checkpoints, predictions, pairs, as the quantity says."""
    seeds: int
    reason: str | None = None
    """Why the value or its interval is missing."""

    def through(self, monotone: Callable[[float], float]) -> Estimate:
        """The estimate on another scale that never falls."""
        value, low, high = (None if x is None else monotone(x) for x in (self.value, self.low, self.high))
        return Estimate(value, low, high, self.n, self.seeds, self.reason)


def nothing(reason: str) -> Estimate:
    """The estimate that there is not."""
    return Estimate(None, None, None, 0, 0, reason)


def estimate(groups: Sequence[Group], statistic: Callable[[Sequence[Group]], float | None], n: int) -> Estimate:
    """A statistic of all seeds, and its bootstrap interval over them.

    Args:
        groups: one element a seed.
        statistic: of any multiset of them; None where it does not exist.
        n: how many observations stand behind it.
    """
    value = statistic(groups) if groups else None
    if value is None or not math.isfinite(value):
        return Estimate(None, None, None, n, len(groups), "there is nothing to compute it from")
    interval = interval_over(groups, statistic)
    low, high = interval or (None, None)
    return Estimate(value, low, high, n, len(groups), None if interval else "too few seeds have it")


def mean_over_seeds(values: Mapping[int, float], n: int, missing: str = "no seed has a value") -> Estimate:
    """Mean of one value a seed, with Student's interval: no verdict hangs on how a bootstrap was drawn."""
    finite = [value for _, value in sorted(values.items()) if math.isfinite(value)]
    if not finite:
        return nothing(missing)
    mean, seeds = fmean(finite), len(finite)
    if seeds < 2:
        return Estimate(mean, None, None, n, seeds, "too few seeds have it")
    reach = float(stats.t.ppf(0.975, seeds - 1)) * stdev(finite) / math.sqrt(seeds)
    return Estimate(mean, mean - reach, mean + reach, n, seeds)


def share_over_seeds(values: Mapping[int, float], n: int, missing: str = "no seed has a value") -> Estimate:
    """Mean of one share, or difference of shares, a seed.

    Where all seeds agree to the last digit their spread is 0 and says nothing: the rule of three then stands in,
    3/n to either side (the 95 % bound of a share that was 0 in n independent trials; those of a seed are not quite).
    """
    found = mean_over_seeds(values, n, missing)
    if found.value is None or found.low is None or found.low != found.high or n == 0:
        return found
    return Estimate(found.value, found.value - 3.0 / n, found.value + 3.0 / n, n, found.seeds)


def rate_over_seeds(values: Mapping[int, float], n: int, missing: str = "no seed has a value") -> Estimate:
    """Mean of one share a seed, its interval within 0 and 1."""
    return share_over_seeds(values, n, missing).through(lambda share: min(1.0, max(0.0, share)))


def spread_over_seeds(values: Sequence[float], *, relative: bool = False, missing: str = "no seed has it") -> Estimate:
    """Sample standard deviation of one value a seed (relative: over their mean), with its chi-square interval.

    sqrt((n - 1) s^2 / chi2_{n-1}): exact for values that are normal over seeds. A bootstrap of so few draws the same
    seed twice too often, and is too low.
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return nothing(missing if not values else "a spread needs two seeds, and finite values")
    free, std = len(values) - 1, stdev(values)
    scale = 1.0 / abs(fmean(values)) if relative else 1.0
    low, high = (std * math.sqrt(free / float(stats.chi2.ppf(q, free))) for q in (0.975, 0.025))
    return Estimate(std * scale, low * scale, high * scale, len(values), len(values))


@dataclass(frozen=True, slots=True)
class Quantity:
    """An estimate with its name and how it is written."""

    name: str
    found: Estimate
    of: str = "checkpoints"
    """What n counts."""
    form: str = ".2f"
    scale: float = 1.0
    """100 for per cent."""
    unit: str = ""

    def number(self, value: float) -> str:
        """A value as it is written, without its unit."""
        shown = f"{value * self.scale:{self.form}}"
        # A rounded zero has no sign.
        return shown.lstrip("+-") if float(shown) == 0.0 else shown

    @property
    def here(self) -> str:
        """The value, or why there is none."""
        e = self.found
        return f"none: {e.reason}" if e.value is None else self.number(e.value) + self.unit

    @property
    def interval(self) -> str:
        """The interval, or why there is none."""
        e = self.found
        if e.low is None or e.high is None:
            return "" if e.value is None else f"none: {e.reason}"
        return f"{self.number(e.low)} to {self.number(e.high)}{self.unit}"

    @property
    def behind(self) -> str:
        """Seeds and n."""
        e = self.found
        seeds = f"{e.seeds} seed{'' if e.seeds == 1 else 's'}"
        if not e.seeds:
            return "0"
        return seeds if self.of == "seeds" else f"{seeds}, {e.n:,} {self.of}"

    @property
    def text(self) -> str:
        """The number with interval, seeds and n, or why there is none."""
        if self.found.value is None:
            return self.here
        return f"{self.here} (95 % {self.interval}; {self.behind})"


@dataclass(frozen=True, slots=True)
class Bar:
    """One condition of a rule: the whole interval above the line, or below it."""

    quantity: Quantity
    line: float
    above: bool = True
    """Whether the claim needs the quantity above the line, or below it."""

    @property
    def verdict(self) -> str:
        """stands: the interval lies on the claim's side; falls: on the other; not decided: else."""
        e = self.quantity.found
        if e.low is None or e.high is None or e.seeds < FEWEST_SEEDS:
            return OPEN
        over, under = e.low > self.line, e.high < self.line
        met, missed = (over, under) if self.above else (under, over)
        return STANDS if met else FALLS if missed else OPEN

    @property
    def condition(self) -> str:
        """What the claim needs."""
        return f"*{self.quantity.name}* is {self.side}"

    @property
    def side(self) -> str:
        """The side of the line that the claim needs."""
        line = "0" if self.line == 0.0 else self.quantity.number(self.line)
        return f"{'above' if self.above else 'below'} {line}{self.quantity.unit}"

    @property
    def reading(self) -> str:
        """How the measurement stands to the line, in a word or two."""
        said = {STANDS: "met", FALLS: "missed", OPEN: "open"}[self.verdict]
        few = self.verdict == OPEN and 0 < self.quantity.found.seeds < FEWEST_SEEDS
        return f"open: fewer than {FEWEST_SEEDS} seeds" if few else said


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """One claim of the paper, judged."""

    key: str
    claim: str
    source: str
    """Where the paper makes it."""
    rule: str
    """What it would take, in terms of the numbers."""
    control: str
    """The control that could refute it."""
    verdict: str
    """stands | falls | not decided."""
    bars: tuple[Bar, ...]
    """What decided; none where the verdict rests on p-values."""
    beside: tuple[Quantity, ...]
    """What was measured beside it."""
    explains: str
    """Which artefact explains a difference; empty unless the claim falls."""
    notes: tuple[str, ...] = ()
    """Limits of this measurement."""

    @property
    def measured(self) -> tuple[Quantity, ...]:
        """What decides, or where there is none of that what was measured."""
        return tuple(bar.quantity for bar in self.bars) or self.beside


def rule_text(bars: Sequence[Bar], falls_if: str = "any") -> str:
    """The rule in words."""
    needed = " and ".join(bar.condition for bar in bars)
    if len(bars) == 1:
        return (
            f"Stands if {needed}, with its whole interval; falls if the whole interval is on the other side; else "
            "not decided."
        )
    missed = "that of any of them is" if falls_if == "any" else "those of all of them are"
    return f"Stands if {needed}, each with its whole interval; falls if {missed} on the other side; else not decided."


def verdict_of(bars: Sequence[Bar], falls_if: str = "any") -> str:
    """The verdict of several conditions: all met, or any (all) missed, or neither."""
    said = [bar.verdict for bar in bars]
    if said and all(word == STANDS for word in said):
        return STANDS
    missed = [word == FALLS for word in said]
    return FALLS if missed and (any(missed) if falls_if == "any" else all(missed)) else OPEN


def finding(
    key: str,
    claim: str,
    source: str,
    control: str,
    bars: Sequence[Bar],
    *,
    explains: str | Sequence[str],
    beside: Sequence[Quantity] = (),
    notes: Sequence[str] = (),
    falls_if: str = "any",
) -> ClaimResult:
    """A finding whose verdict follows from its conditions.

    Args:
        key: its name in files.
        claim: in one's own words.
        source: section or table of the paper.
        control: the control that could refute it.
        bars: the conditions.
        explains: the artefact that explains a difference, said only if the claim falls; or one for each condition, of
            which those of the missed ones are said.
        beside: quantities that decide nothing.
        notes: limits of the measurement.
        falls_if: any | all of the conditions have to be missed for the claim to fall.
    """
    verdict = verdict_of(bars, falls_if)
    if not isinstance(explains, str):
        missed = [bar.verdict == FALLS for bar in bars]
        explains = "; ".join(dict.fromkeys(itertools.compress(explains, missed)))
    said = explains if verdict == FALLS else ""
    return ClaimResult(
        key, claim, source, rule_text(bars, falls_if), control, verdict, tuple(bars), tuple(beside), said, tuple(notes)
    )


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
