"""Regimes: from similarities to stable, transition and chaotic."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from leapverify.observe.thresholds import Thresholds, angular_speed

UNKNOWN, CHAOTIC, TRANSITION, STABLE = "unknown", "chaotic", "transition", "stable"
REGIMES = (CHAOTIC, TRANSITION, STABLE)

_MAD_TO_SIGMA = 1.4826
_SMALLEST = 2.0**-53
"""The spacing of float64 below 1: one minus a similarity cannot be told from zero below it."""


def classify_regimes(
    similarities: Sequence[float | None],
    thresholds: Thresholds,
    *,
    eta_sums: Sequence[float | None] | None = None,
    hysteresis: int = 1,
) -> list[str]:
    """Label every checkpoint of one run: stable if s_t > tau_high, chaotic if s_t < tau_low, otherwise transition.

    The labels of the first n checkpoints do not depend on the later ones, whatever the method. A checkpoint
    without similarity (None: the first of a run, or the first after a leap) is `unknown`. NaN is `chaotic`: activations
    that are not finite, or have no direction, are the opposite of predictable.

    Args:
        similarities: s_t per checkpoint of one run, oldest first.
        thresholds: the cut points.
        eta_sums: for the method `rate`: sum of the learning rate over the interval that ends at each checkpoint;
            an interval without learning rate has no speed and is `unknown`.
        hysteresis: n; a label changes only at the n-th consecutive checkpoint that says so (1: at once).

    Returns:
        One of unknown, chaotic, transition, stable per checkpoint.

    Raises:
        ValueError: hysteresis below 1; `rate` without one eta sum per similarity.

    Source: arXiv 2602.19580, eq. 2.

    Example:
        >>> classify_regimes([None, 0.90, 0.97, 0.9995], Thresholds.fixed(low=0.95, high=0.999))
        ['unknown', 'chaotic', 'transition', 'stable']
    """
    if hysteresis < 1:
        raise ValueError(f"a hysteresis of {hysteresis} checkpoints changes no label ever: use 1 or more")
    if thresholds.method == "online":
        labels = _online(similarities, thresholds)
    elif thresholds.method == "rate":
        labels = _by_rate(similarities, eta_sums, thresholds)
    else:
        labels = [_cut(s, thresholds) for s in similarities]
    return _held(labels, hysteresis)


def _cut(s: float | None, thresholds: Thresholds) -> str:
    """Eq. 2, strict on both sides."""
    assert thresholds.low is not None
    assert thresholds.high is not None
    if s is None:
        return UNKNOWN
    if math.isnan(s) or s < thresholds.low:
        return CHAOTIC
    return STABLE if s > thresholds.high else TRANSITION


def _by_rate(
    similarities: Sequence[float | None], eta_sums: Sequence[float | None] | None, thresholds: Thresholds
) -> list[str]:
    if eta_sums is None or len(eta_sums) != len(similarities):
        count = "no" if eta_sums is None else str(len(eta_sums))
        raise ValueError(f"{len(similarities)} similarities came with {count} eta sums: method rate needs one for each")
    return [
        _cut_speed(angular_speed(s, eta_sum), thresholds) for s, eta_sum in zip(similarities, eta_sums, strict=True)
    ]


def _cut_speed(speed: float | None, thresholds: Thresholds) -> str:
    """Eq. 2 on the angular speed: the slow side is the stable one."""
    assert thresholds.low is not None
    assert thresholds.high is not None
    if speed is None:
        return UNKNOWN
    if math.isnan(speed):
        return CHAOTIC
    if speed > thresholds.high:
        return CHAOTIC
    return STABLE if speed < thresholds.low else TRANSITION


def _online(similarities: Sequence[float | None], thresholds: Thresholds) -> list[str]:
    assert thresholds.warmup is not None
    assert thresholds.width is not None
    seen: list[float] = []
    labels = []
    for s in similarities:
        if s is None:
            labels.append(UNKNOWN)
            continue
        if math.isnan(s):
            # It does not enter the scale: one broken value would spoil every later label.
            labels.append(CHAOTIC)
            continue
        x = math.log10(max(1.0 - s, _SMALLEST))
        seen.append(x)
        labels.append(_beyond(x, seen, thresholds.width) if len(seen) > thresholds.warmup else UNKNOWN)
    return labels


def _beyond(x: float, seen: Sequence[float], width: float) -> str:
    """On which side of median +- width * 1.4826 * MAD a value lies."""
    median = statistics.median(seen)
    margin = width * _MAD_TO_SIGMA * statistics.median([abs(value - median) for value in seen])
    if x > median + margin:
        return CHAOTIC
    return STABLE if x < median - margin else TRANSITION


def _held(labels: Sequence[str], hysteresis: int) -> list[str]:
    """Each label, delayed until it has been said `hysteresis` times in a row; `unknown` holds at once."""
    held: list[str] = []
    present, candidate, times = UNKNOWN, UNKNOWN, 0
    for label in labels:
        times = times + 1 if label == candidate else 1
        candidate = label
        if label == UNKNOWN or times >= hysteresis:
            present = label
        held.append(present)
    return held
