"""The words of a verdict: said only where an interval over seeds is clear of the null, else 'cannot say'."""

from __future__ import annotations

from collections.abc import Sequence

from leapverify.analysis.over_seeds import FEWEST_SEEDS

FEWEST_VALUES = 3
"""Of a seed: a median of fewer is hardly one, and no verdict is drawn from it."""


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


def interval_text(low: float | None, high: float | None, form: str, *, scale: float = 1.0, unit: str = "") -> str:
    """The interval in parentheses, or that there is none."""
    if low is None or high is None:
        return " (one seed, no interval)"
    return f" (95 % {low * scale:{form}} to {high * scale:{form}}{unit})"


def range_text(values: Sequence[float]) -> str:
    """'0.41 to 0.52', or one number where both ends read the same."""
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def p_text(p: float) -> str:
    """Two digits, and not below what can be said."""
    return f"{p:.2g}" if p >= 1e-4 else "less than 0.0001"


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
