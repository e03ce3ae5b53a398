"""The words of a race: differences, ratios and shares in sentences."""

from __future__ import annotations

from leapverify.analysis.over_seeds import OverSeeds
from leapverify.analysis.race.paired import Paired, Ratio
from leapverify.analysis.wording import counted, listed, p_text, percent

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
