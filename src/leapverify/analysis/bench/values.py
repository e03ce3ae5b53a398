"""What the bench says of a predictor: acceptance, steps gained, cost, persistence, and what all that is worth.

An attempt is a prediction that was made, finite or not; a declined one was never made and is counted beside them. Every
number is taken within each seed and then averaged over seeds, with an interval over seeds.

- Cost of an attempt: tokens of prediction and verification over those of one training step, in steps.
- Persistence: median of (loss after R real steps - loss after the same R steps from the predicted state) over
  (L_t - L_hat), of the attempts that lowered the loss and were followed.
- Verified value of an attempt: [accepted by `paired`] x steps gained x persistence (between 0 and 1) - cost.
- Unconditional value of an attempt: (L_t - L_hat) over the run's own fall per step, accepted or not, at no cost.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from leapverify.analysis.bench.rows import Bench, Tried
from leapverify.analysis.over_seeds import FEWEST_SEEDS, OverSeeds, by_seed, summarise
from leapverify.analysis.study.acceptance import Rate, acceptance
from leapverify.analysis.vocabulary import ALL, CONTROLS, CRITERIA

ALL_HORIZONS = 0
"""As a K: predictions of every K."""

NOT_IMPROVED = "the run itself did not improve"

Value = Callable[[Tried], float | None]
"""Of an attempt; None where it has none."""
Centre = Callable[[Sequence[float]], float]


def _centred(value: Value, centre: Centre = statistics.fmean, missing: str = "no value") -> cached_property[OverSeeds]:
    """A number of a `Ranking`: within each seed the centre of the attempts' values, then over seeds."""
    return cached_property(lambda ranking: ranking.over_seeds(value, centre, missing))


@dataclass(frozen=True)
class Ranking:
    """One predictor's attempts in one regime for one K (or all), and every number that is said of them."""

    predictor: str
    regime: str
    horizon: int
    """K in steps, or `ALL_HORIZONS`; of a horizon-free predictor always the latter."""
    tried: Sequence[Tried]

    @cached_property
    def attempts(self) -> Sequence[Tried]:
        """The predictions that were made."""
        return [row for row in self.tried if row.made]

    @property
    def n(self) -> int:
        """Attempts."""
        return len(self.attempts)

    @property
    def control(self) -> bool:
        """Whether it is a control and no contender."""
        return self.predictor in CONTROLS

    @property
    def declined(self) -> int:
        """How often no prediction was made."""
        return len(self.tried) - self.n

    @cached_property
    def declined_reason(self) -> str:
        """The commonest reason of them, whatever its numbers; empty without any."""
        reasons = Counter(row.prediction.reason or "no reason recorded" for row in self.tried if not row.made)
        kinds: Counter[str] = Counter()
        for text, count in reasons.items():
            kinds[_kind(text)] += count
        # Counts of snapshots and steps differ from checkpoint to checkpoint; what is lacking is the same.
        return min(reasons, key=lambda text: (-kinds[_kind(text)], -reasons[text], text)) if reasons else ""

    @property
    def nonfinite(self) -> int:
        """Attempts that were not finite: rejected, and never a gain."""
        return sum(not row.finite for row in self.attempts)

    @property
    def beyond(self) -> int:
        """Attempts whose steps gained are a lower bound, since the run never reached their loss."""
        return sum(row.beyond for row in self.attempts)

    @cached_property
    def rates(self) -> Mapping[str, Rate]:
        """Acceptance rate (0 to 1) by each criterion."""
        rows = [row.prediction for row in self.tried]
        if len({row.horizon for row in rows}) > 1:
            rows = [replace(row, horizon=self.horizon) for row in rows]
        horizons = [rows[0].horizon] if rows else [self.horizon]
        found = {}
        for name in CRITERIA:
            (rate,) = acceptance(rows, name, regimes=[ALL], predictors=[self.predictor], horizons=horizons)
            found[name] = replace(rate, regime=self.regime, horizon=self.horizon)
        return found

    @property
    def accepted(self) -> Rate:
        """By `paired`."""
        return self.rates["paired"]

    gain = _centred(lambda row: row.gain if row.finite else None, missing="no finite prediction")
    """Mean of L_t - L_hat of the finite attempts, nats per token."""
    gain_fraction = _centred(
        lambda row: row.prediction.gain_fraction if row.finite else None, statistics.median, NOT_IMPROVED
    )
    """Median within a seed."""
    steps_gained = _centred(lambda row: row.steps)
    """Mean over all attempts, those without a gain as 0."""
    predict_tokens = _centred(lambda row: row.predict_tokens)
    """Mean cost of the prediction, forward-token equivalents."""
    verify_tokens = _centred(lambda row: row.verify_tokens)
    """Mean cost of the verification, forward-token equivalents."""
    cost_steps = _centred(lambda row: row.cost_steps)
    """Mean cost of an attempt, training steps."""
    net_steps = _centred(lambda row: row.steps - row.cost_steps)
    """Mean of steps gained less cost."""
    unconditional_value = _centred(lambda row: row.unconditional_steps, statistics.median, NOT_IMPROVED)
    """Median within a seed of (L_t - L_hat) over the run's fall per step, in steps; harm is negative."""

    @cached_property
    def persistence(self) -> OverSeeds:
        """Median within a seed of the share of the gain that is left, nothing clipped."""
        gained = any(row.finite and row.gain > 0.0 for row in self.attempts)
        why = "none of the gains was trained on from" if gained else "no gain to follow"
        return self.over_seeds(lambda row: row.kept, statistics.median, f"never measured: {why}")

    @property
    def diverged(self) -> int:
        """Measurements of persistence in which training from the predicted state diverged."""
        return sum(row.kept == -math.inf for row in self.attempts)

    @property
    def diverged_seeds(self) -> tuple[int, int]:
        """Seeds whose median persistence is of such a measurement, and all seeds that have one."""
        kept = by_seed((row.prediction.seed, row.kept) for row in self.attempts if row.kept is not None)
        medians = [statistics.median(of_seed) for of_seed in kept.values()]
        return medians.count(-math.inf), len(medians)

    @cached_property
    def unmeasured(self) -> int:
        """Accepted attempts that gained steps, without a persistence; the others of the same seed stand for them."""
        return sum(row.accepted and row.kept_steps is None for row in self.attempts)

    @cached_property
    def verified_value(self) -> OverSeeds:
        """Steps gained that persist, of accepted attempts, less the cost of all: a mean per attempt, in steps.

        Within a seed: share of attempts accepted with steps gained x mean over those of them with a persistence of
        (steps gained x persistence between 0 and 1) - mean cost. A seed with such attempts of which none was followed
        has no value.
        """
        rows: dict[int, list[Tried]] = defaultdict(list)
        for row in self.attempts:
            rows[row.prediction.seed].append(row)
        values = {seed: _verified(of_seed) for seed, of_seed in rows.items()}
        known = {seed: value for seed, value in values.items() if value is not None}
        missing = self._nothing() or "the persistence of no accepted prediction was measured"
        return summarise(known, n=sum(len(rows[seed]) for seed in known), missing=missing)

    def over_seeds(self, value: Value, centre: Centre, missing: str) -> OverSeeds:
        """Within each seed the centre of what exists, then over seeds; a centre at -inf leaves no mean."""
        measured = ((row.prediction.seed, value(row)) for row in self.attempts)
        found = by_seed((seed, number) for seed, number in measured if number is not None)
        centres = {seed: centre(values) for seed, values in found.items()}
        n = sum(map(len, found.values()))
        lost = sum(not math.isfinite(of_seed) for of_seed in centres.values())
        if lost:
            kind = "median" if centre is statistics.median else "mean"
            return summarise({}, n=n, missing=f"not finite: the {kind} of {lost} of {len(centres)} seeds")
        return summarise(centres, n=n, missing=self._nothing() or missing)

    def _nothing(self) -> str:
        if not self.tried:
            return "not tried here"
        return "" if self.n else f"all {self.declined} declined: {self.declined_reason}"


def _kind(reason: str) -> str:
    return re.sub(r"\d+", "0", reason)


def _verified(rows: Sequence[Tried]) -> float | None:
    """The mean verified value of one seed's attempts."""
    cost = statistics.fmean(row.cost_steps for row in rows)
    # Without steps gained nothing can be kept, followed or not: such attempts need nobody to stand for them.
    gained = [row for row in rows if row.accepted and row.steps > 0.0]
    if not gained:
        return -cost
    kept = [row.kept_steps for row in gained if row.kept_steps is not None]
    return len(gained) / len(rows) * statistics.fmean(kept) - cost if kept else None


def standing(bench: Bench, predictor: str, *, regime: str = ALL, horizon: int | None = None) -> Ranking:
    """One cell of the bench.

    Args:
        bench: the bench.
        predictor: its name.
        regime: one regime, or `all`.
        horizon: K in steps, or `ALL_HORIZONS`; by default the headline K. A horizon-free predictor has the same
            attempts for every K.
    """
    wanted = bench.headline_steps if horizon is None else horizon
    any_horizon = wanted == ALL_HORIZONS or predictor in bench.horizon_free
    key = (predictor, regime, ALL_HORIZONS if any_horizon else wanted)
    found = bench.standings.get(key)
    if not isinstance(found, Ranking):
        tried = [
            row
            for row in bench.of_predictor.get(predictor, ())
            if (any_horizon or row.prediction.horizon == wanted) and regime in (ALL, row.prediction.regime)
        ]
        found = Ranking(predictor, regime, key[2], tried)
        bench.standings[key] = found
    return found


@dataclass(frozen=True)
class Place:
    """One row of the leaderboard."""

    rank: int | None
    """Among the contenders, equal where they are; None for a control and for one without a value."""
    headline: Ranking
    """At K = Delta, every regime."""
    over_horizons: Ranking
    """Every K, every regime."""

    @property
    def predictor(self) -> str:
        """Its name."""
        return self.headline.predictor


def leaderboard(bench: Bench) -> list[Place]:
    """Every predictor at the headline K, the best verified value first; controls stand where they fall, without a rank.

    Ordered by the lower end of the interval of the verified value over seeds; with fewer than three seeds by its
    mean, since such an interval says more of the seeds than of the predictor. No K is chosen on what is reported.
    """
    rows = [standing(bench, name) for name in bench.predictors]
    by_bound = len(bench.seeds) >= FEWEST_SEEDS
    rows.sort(key=lambda row: _order(row, by_bound))
    contenders = [_order(row, by_bound)[:2] for row in rows if not row.control]
    return [
        Place(
            None if row.control or row.verified_value.mean is None else 1 + contenders.index(_order(row, by_bound)[:2]),
            row,
            standing(bench, row.predictor, horizon=ALL_HORIZONS),
        )
        for row in rows
    ]


def _order(row: Ranking, by_bound: bool) -> tuple[float, float, str]:
    """The bound, then the mean, both to a millionth of a step, so that rounding breaks no tie; then the name."""
    found = row.verified_value
    mean = math.inf if found.mean is None else -round(found.mean, 6)
    bound = mean if not by_bound else math.inf if found.low is None else -round(found.low, 6)
    return bound, mean, row.predictor
