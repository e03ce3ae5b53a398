"""The paired test that may be looked at after every batch.

Gains g_i = L_t,i - L_hat,i of the same held-out sequences are tested against a mean that is not above 0. The
evidence is the Bayes factor of a t-test whose standardised effect, mean over standard deviation, has the prior
N(0, g):

    BF_n = c^(-1/2) (1 - p (c - 1)/c)^(-n/2),   c = 1 + n g,   p = t^2/(t^2 + n - 1)

It depends on the gains through their t statistic alone, so neither their unit nor their spread matters. For
independent Gaussian gains of mean 0 it is a martingale in n that ever reaches 1/(2 alpha) with a probability of at
most 2 alpha (Ville), by symmetry half of it first upwards: stopping when the answer is clear, or at the end of the
budget, keeps the rate of false accepts at or below alpha. Solved for the mean it is a confidence sequence.

Gains that are no Gaussians: heavy but symmetric tails make t smaller, and the test holds. Many small gains and few
large losses make t too large; the critical t is therefore raised by the Cornish-Fisher term of the sample skewness
on the side where that is the danger, and never lowered, so that the Gaussian guarantee stays. Monte Carlo of the
false accepts at alpha = 0.05 (20,000 runs of up to 1024 gains, a look at each; the tests hold a shorter one): normal
0.030, Student t5 0.030, Laplace 0.033, uniform 0.023, exponential with its tail of gains 0.008 and with its tail of
losses 0.039 (0.12 without the correction). Far more skewness breaks the rate: log-normal losses (sigma 1, skewness -6)
are accepted at 0.08. So does dependence: windows of one document are to be shuffled among the others. More of both,
with intervals, and how little is seen of it in the rounds of `compare`: docs/reliability.md.

Source: Robbins 1970; Lai 1976; Wang & Ramdas, arXiv 2310.03722 (mixtures for t-tests); Johnson 1978 (skewness).
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

PRIOR = 0.1
"""Variance g of the prior of the standardised effect: most power for effects near a third of a deviation."""

MINIMUM = 16
"""Gains before the first look; fewer do not show their skewness."""

SKEW_CAUTION = 2.0
"""Factor on the skewness term, because the skewness of few gains falls short of the true one."""


class Decision(enum.Enum):
    """How a paired test ended."""

    ACCEPT = "accept"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class GainMoments:
    """What the test needs to know of the gains."""

    count: int
    mean: float
    std: float
    """Sample standard deviation (n - 1)."""
    skewness: float
    """Adjusted for the count; 0 for fewer than three gains or gains that are all equal."""


class Bounds(NamedTuple):
    """Confidence bounds of the mean gain, each at level 1 - alpha."""

    lower: float
    upper: float


def moments(gains: ArrayLike) -> GainMoments:
    """Count, mean, standard deviation and skewness of at least two gains, whatever their order and scale."""
    ordered = np.sort(np.asarray(gains, dtype=np.float64))  # sums depend on the order by rounding, sorted sums do not
    count = ordered.size
    _, exponent = np.frexp(np.abs(ordered[[0, -1]]).max())
    scaled = np.ldexp(ordered, -exponent)  # a power of two: exact, and cubes of large or small gains stay in range
    mean = float(scaled.mean())
    deviations = scaled - mean
    square = float(deviations @ deviations)
    skewness = 0.0
    if count > 2 and square > 0.0:
        cube = float((deviations * deviations) @ deviations)
        skewness = cube * count * math.sqrt((count - 1.0) / square) / (count - 2.0) / square
    std = math.sqrt(square / (count - 1))
    return GainMoments(count, float(np.ldexp(mean, exponent)), float(np.ldexp(std, exponent)), skewness)


def critical_t(count: int, alpha: float = 0.05, prior: float = PRIOR) -> float:
    """The t at which BF_n = 1/(2 alpha); infinite where no t reaches it.

    t*^2 = (n - 1)(r - 1)/(1 - r/c),   r = (c/(2 alpha)^2)^(1/n),   c = 1 + n g
    """
    c = 1.0 + count * prior
    r = (c / (2.0 * alpha) ** 2) ** (1.0 / count)
    return math.sqrt((count - 1) * (r - 1.0) / (1.0 - r / c)) if r < c else math.inf


def confidence_bounds(gains: ArrayLike, alpha: float = 0.05, prior: float = PRIOR) -> Bounds:
    """Bounds of the mean gain that hold at every n at once.

    lower = mean - (t* + max(0, -skewness) w) std/sqrt(n),   w = 2 (1 + 2 t*^2)/(6 sqrt(n)); upper likewise

    Args:
        gains: (n,) nats per token, or any other unit.
        alpha: error rate of each bound.
        prior: g.

    Returns:
        The bounds in the unit of the gains; infinite where n is too small for any.
    """
    found = moments(gains) if np.size(gains) > 1 else GainMoments(np.size(gains), 0.0, 0.0, 0.0)
    critical = critical_t(found.count, alpha, prior) if found.count > 1 else math.inf
    if math.isinf(critical):
        return Bounds(-math.inf, math.inf)
    root = math.sqrt(found.count)
    caution = SKEW_CAUTION * (1.0 + 2.0 * critical**2) / (6.0 * root)
    below, above = (critical + max(0.0, sign * found.skewness) * caution for sign in (-1.0, 1.0))
    return Bounds(found.mean - below * found.std / root, found.mean + above * found.std / root)


class PairedTest:
    """One sequential test: give it the gains batch by batch until it decides or the budget is spent.

    Args:
        alpha: rate of false accepts, held at whatever time the test stops.
        prior: g, variance of the standardised effect that is expected.
        minimum: gains before the first look.

    Raises:
        ValueError: alpha is not in (0, 0.5), prior is not above 0, or minimum is below 2.
    """

    def __init__(self, alpha: float = 0.05, prior: float = PRIOR, minimum: int = MINIMUM) -> None:
        if not 0.0 < alpha < 0.5:
            raise ValueError(f"alpha = {alpha} is no rate of false accepts: give one between 0 and 0.5, such as 0.05")
        if not 0.0 < prior < math.inf:
            raise ValueError(f"prior = {prior} is no variance: give a finite number above 0, such as {PRIOR}")
        if minimum < 2:
            raise ValueError(f"minimum = {minimum} gains have no standard deviation: give at least 2")
        self.alpha, self.prior, self.minimum = alpha, prior, minimum
        self.decision: Decision | None = None
        self.bounds = Bounds(-math.inf, math.inf)
        self._gains: NDArray[np.float64] = np.empty(0)

    @property
    def count(self) -> int:
        """Gains seen so far."""
        return self._gains.size

    def update(self, gains: ArrayLike) -> Decision | None:
        """Take one more batch of gains and look: accept if the lower bound is above 0, reject if the upper is below.

        Args:
            gains: (b,) finite.

        Returns:
            The decision; None while the gains leave it open.

        Raises:
            ValueError: a gain is not finite, or the test has decided already.
        """
        batch = np.asarray(gains, dtype=np.float64).ravel()
        if not np.isfinite(batch).all():
            bad = batch[~np.isfinite(batch)][0]
            raise ValueError(f"a gain is {bad}: reject a prediction whose losses are not finite instead of testing it")
        if self.decision is not None:
            raise ValueError(f"the test decided to {self.decision.value} after {self.count} gains: start a new one")
        self._gains = np.concatenate([self._gains, batch])
        if self.count >= self.minimum:
            self.bounds = confidence_bounds(self._gains, self.alpha, self.prior)
            self.decision = _decide(self.bounds)
        return self.decision


def _decide(bounds: Bounds) -> Decision | None:
    if bounds.lower > 0.0:
        return Decision.ACCEPT
    return Decision.REJECT if bounds.upper < 0.0 else None
