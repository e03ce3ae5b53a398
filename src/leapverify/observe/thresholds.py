"""Where the cut points between the regimes lie, and the five ways of setting them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

PAPER_TAU_LOW = 0.9962696
PAPER_TAU_HIGH = 0.99948916
"""Means over five seeds of each run's 30th and 70th percentile, from the paper's published code."""

Method = Literal["paper", "fixed", "percentile", "rate", "online"]


@dataclass(frozen=True)
class Thresholds:
    """The cut points of one method; made by its class methods, read by `classify_regimes`.

    For `paper`, `fixed` and `percentile`, `low` and `high` are tau_low and tau_high of the similarity. For `rate` they
    are angular speeds in radians per unit of summed learning rate: stable below `low`, chaotic above `high`. For
    `online` they are None, and `warmup` and `width` hold instead.

    Example:
        >>> Thresholds.percentile([0.90, 0.95, 0.99, 0.995, 0.999]).to_dict()
        {'method': 'percentile', 'low': 0.958, 'high': 0.994}
        >>> Thresholds.paper().high
        0.99948916
    """

    method: Method
    low: float | None = None
    high: float | None = None
    warmup: int | None = None
    """Similarities that `online` sees before it gives a label."""
    width: float | None = None
    """Distance of the `online` cut points from the running median, in robust standard deviations."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"threshold method {self.method!r} is unknown: use one of {', '.join(get_args(Method))}")
        if self.method == "online":
            self._check_online()
        else:
            self._check_cut_points()

    def _check_online(self) -> None:
        if self.low is not None or self.high is not None:
            raise ValueError("online thresholds learn their cut points: leave low and high out")
        if self.warmup is None or self.warmup < 2:
            raise ValueError(f"the online warm-up of {self.warmup} values gives no scale: use at least 2")
        if self.width is None or not 0.0 <= self.width < math.inf:
            raise ValueError(
                f"the online width {self.width} is no distance: use a number of at least 0, such as 0.5244"
            )

    def _check_cut_points(self) -> None:
        if self.warmup is not None or self.width is not None:
            raise ValueError(f"{self.method} thresholds have no warm-up and no width: leave them out")
        if self.low is None or self.high is None or not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"thresholds low={self.low}, high={self.high} are not two finite numbers: give both")
        if self.low > self.high:
            raise ValueError(f"threshold low={self.low} lies above high={self.high}: swap them")
        if self.method != "rate" and not -1.0 <= self.low <= self.high <= 1.0:
            raise ValueError(f"thresholds low={self.low}, high={self.high} are no cosines: stay between -1 and 1")

    @classmethod
    def paper(cls) -> Thresholds:
        """tau_low = 0.9962696 and tau_high = 0.99948916, from the paper's published code (its text prints none)."""
        return cls("paper", PAPER_TAU_LOW, PAPER_TAU_HIGH)

    @classmethod
    def fixed(cls, low: float, high: float) -> Thresholds:
        """tau_low and tau_high as given: stable above `high`, chaotic below `low`."""
        return cls("fixed", float(low), float(high))

    @classmethod
    def percentile(cls, similarities: Iterable[float | None], low: float = 30, high: float = 70) -> Thresholds:
        """Percentiles of the similarities of calibration runs, pooled over their seeds; None and NaN are left out.

        Args:
            similarities: s_t of every calibration checkpoint.
            low: percentile that becomes tau_low, per cent.
            high: percentile that becomes tau_high, per cent.

        Raises:
            ValueError: fewer than two usable similarities, or percentiles out of order.
        """
        values = [value for value in similarities if value is not None and math.isfinite(value)]
        return cls("percentile", *_percentiles(values, low, high, "similarities"))

    @classmethod
    def rate(
        cls,
        similarities: Sequence[float | None],
        eta_sums: Sequence[float | None],
        low: float = 30,
        high: float = 70,
    ) -> Thresholds:
        """Percentiles of the angular speed acos(s_t) / sum of eta of calibration runs, pooled over their seeds.

        A label then does not change merely because the learning rate or the checkpoint interval did. Checkpoints
        without similarity, or over whose interval the learning rate was zero, are left out.

        Args:
            similarities: s_t of every calibration checkpoint.
            eta_sums: sum of the learning rate over the interval that ends there.
            low: percentile of the speed below which a checkpoint is stable, per cent.
            high: percentile of the speed above which it is chaotic, per cent.

        Raises:
            ValueError: the two lists differ in length, or fewer than two speeds are usable.
        """
        if len(similarities) != len(eta_sums):
            raise ValueError(f"{len(similarities)} similarities have {len(eta_sums)} eta sums: give one for each")
        speeds = [angular_speed(s, eta) for s, eta in zip(similarities, eta_sums, strict=True)]
        values = [speed for speed in speeds if speed is not None and math.isfinite(speed)]
        return cls("rate", *_percentiles(values, low, high, "angular speeds"))

    @classmethod
    def online(cls, warmup: int = 5, width: float = 0.5244) -> Thresholds:
        """Cut points learnt while the run goes on, from nothing later than the checkpoint that is labelled.

        With x = log10(1 - s), and median and MAD over the values up to and including now: chaotic if x > median +
        width * 1.4826 * MAD, stable if x < median - width * 1.4826 * MAD, unknown during the warm-up. 0.5244 is the
        70th percentile of the normal distribution, so a third of a settled run falls to each side or so.
        """
        return cls("online", warmup=warmup, width=width)

    def to_dict(self) -> dict[str, Any]:
        """Method and its numbers, without those that the method does not have; for configuration files."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Thresholds:
        """The thresholds that `to_dict` described.

        Raises:
            ValueError: an unknown key, no method, or numbers that do not belong to the method.
        """
        known = ("method", "low", "high", "warmup", "width")
        for key in values:
            if key not in known:
                raise ValueError(f"threshold key {key!r} is unknown: use {', '.join(known)}")
        if "method" not in values:
            raise ValueError(f"thresholds need a method: use one of {', '.join(get_args(Method))}")
        return cls(**values)


def angular_speed(s: float | None, eta_sum: float | None) -> float | None:
    """acos(s) / eta_sum, radians per unit of summed learning rate; NaN for a similarity that is NaN.

    None without similarity, or where the learning rate was zero over the interval (no path, hence no speed on it).
    """
    if s is None or (not math.isnan(s) and (eta_sum is None or not eta_sum > 0.0)):
        return None
    if math.isnan(s) or eta_sum is None:
        return math.nan
    return math.acos(max(-1.0, min(1.0, s))) / eta_sum


def _percentiles(values: Sequence[float], low: float, high: float, what: str) -> tuple[float, float]:
    if not 0.0 <= low <= high <= 100.0:
        raise ValueError(f"percentiles low={low}, high={high} are out of order: use 0 <= low <= high <= 100")
    if len(values) < 2:
        raise ValueError(f"{len(values)} usable {what} set no percentiles: calibrate on at least 2 checkpoints")
    tau_low, tau_high = np.percentile(np.asarray(values, dtype=np.float64), [low, high])
    return float(tau_low), float(tau_high)
