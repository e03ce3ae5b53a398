"""What attempts have come to, and what is expected of the next one.

An arm is a predictor and a horizon K. With s and f the accepted and the rejected attempts on record,

    p     = (2 p_0 + s) / (2 + s + f)                                            probability of acceptance
    phi   = (phi_0/2 + sum of min(steps gained, K)/K) / (1/2 + their number)     share of K that a leap gains
    cost  = (c_0/2 + sum of costs) / (1/2 + their number)                        of an attempt, unit of the ledger
    value = p phi K step_cost - cost                                             expected saving less expected cost

The record that speaks for an arm: its own attempts in the present regime count whole, those in other regimes half. An
acceptance at K speaks for every shorter horizon of the predictor too; a rejection against every longer one, unless the
mean gain was above 0, which a longer leap may make clear.

The priors are optimistic, so that what was never tried is tried: p_0 = 1/2 + 0.4 c for a path of straightness c (1/2
where it is unknown), raised half-way to the rate of acceptance at horizons from K/2 up to K; phi_0, the mean share at
the predictor's other horizons K', those of longer ones as min(1, share K'/K), weighted by min(K, K')/max(K, K'), and
3/4 as if measured once; c_0, the mean cost of all arms, that of the least forward passes before any. All
evidence fades by 2 % a checkpoint, because runs change: what failed is tried again later.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from leapverify.leap.policy.base import Outcome, Proposal, Situation

PRIOR_WEIGHT = 2.0
"""Attempts that the prior probability of acceptance is worth."""

PRIOR_SHARE = 0.75
"""phi_0 before any leap."""

OTHER_WEIGHT = 0.5
"""Attempts that a share or a cost is worth that was not measured on the arm itself."""

ELSEWHERE = 0.5
"""Weight of a record from another regime."""

STRAIGHT = 0.4
"""What full straightness adds to the prior probability of acceptance, and what going back takes from it."""

FADING = 0.98
"""Weight of the evidence from one checkpoint to the next."""

FORGOTTEN = 1e-3
"""Attempts; a record that has faded to less is dropped."""


@dataclass(slots=True)
class Record:
    """What the attempts with one arm in one regime came to; all of it fades."""

    attempts: float = 0.0
    accepted: float = 0.0
    worse: float = 0.0
    """Rejected ones that did not even look better: gain not above 0, or not finite."""
    shares: float = 0.0
    """Sum of min(steps gained, K)/K over the accepted ones whose gain in steps is known."""
    measured: float = 0.0
    """Number of these."""
    cost: float = 0.0
    """Of all attempts, unit of the ledger."""


class LeapEstimate(NamedTuple):
    """What is expected of one arm."""

    proposal: Proposal
    chance: float
    """p"""
    steps: float
    """phi K"""
    cost: float
    """Unit of the ledger."""
    value: float
    """Unit of the ledger."""


class Experience:
    """The records of all arms, by predictor, horizon and regime."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, int, str], Record] = {}

    def add(self, outcome: Outcome) -> None:
        """Take in an attempt that was accepted or rejected."""
        predictor, horizon = outcome.proposal.predictor, outcome.proposal.horizon
        record = self._records.setdefault((predictor, horizon, outcome.regime), Record())
        record.attempts += 1.0
        record.cost += outcome.cost
        if outcome.status == "accepted":
            record.accepted += 1.0
            share = share_gained(outcome)
            if share is not None:
                record.shares, record.measured = record.shares + share, record.measured + 1.0
        elif not looked_better(outcome):
            record.worse += 1.0

    def fade(self, checkpoints: float) -> None:
        """Let so many checkpoints pass."""
        factor = FADING**checkpoints
        for record in self._records.values():
            for name in Record.__slots__:
                setattr(record, name, getattr(record, name) * factor)
        self._records = {arm: record for arm, record in self._records.items() if record.attempts > FORGOTTEN}

    def accepted(self, proposal: Proposal, regime: str) -> bool:
        """Whether a proposal was ever accepted in a regime, as far as that is remembered."""
        record = self._records.get((proposal.predictor, proposal.horizon, regime))
        return record is not None and record.accepted > 0.0

    def estimate(self, proposal: Proposal, situation: Situation) -> LeapEstimate:
        """What a proposal is expected to bring, by the formulas at the head of this file."""
        chance = self._chance(proposal, situation)
        steps = proposal.horizon * self._share(proposal, situation)
        cost = self._cost(proposal, situation)
        return LeapEstimate(proposal, chance, steps, cost, chance * steps * situation.step_cost - cost)

    def state_dict(self) -> list[list[Any]]:
        """The records as JSON."""
        return [[*arm, asdict(record)] for arm, record in self._records.items()]

    def load_state_dict(self, state: Iterable[Any], predictors: Collection[str]) -> None:
        """Go on from what `state_dict` gave, with the records of these predictors."""
        self._records = {
            (name, int(horizon), regime): Record(**record)
            for name, horizon, regime, record in state
            if name in predictors
        }

    def _of(self, predictor: str, situation: Situation) -> Iterable[tuple[int, float, Record]]:
        """Horizon, weight and record of all that was done with a predictor."""
        for (name, horizon, regime), record in self._records.items():
            if name == predictor:
                yield horizon, 1.0 if regime == situation.regime else ELSEWHERE, record

    def _chance(self, proposal: Proposal, situation: Situation) -> float:
        horizon, prior = proposal.horizon, prior_chance(situation.straightness)
        good = bad = near = near_good = 0.0
        for at, weight, record in self._of(proposal.predictor, situation):
            if at >= horizon:
                good += weight * record.accepted
            elif horizon <= 2 * at:
                near, near_good = near + weight * record.attempts, near_good + weight * record.accepted
            if at == horizon:
                bad += weight * (record.attempts - record.accepted)
            elif at < horizon:
                bad += weight * record.worse
        prior = max(prior, 0.5 * (prior + near_good / (1.0 + near)))
        return (PRIOR_WEIGHT * prior + good) / (PRIOR_WEIGHT + good + bad)

    def _share(self, proposal: Proposal, situation: Situation) -> float:
        own = own_count = 0.0
        other, other_count, horizon = PRIOR_SHARE, 1.0, proposal.horizon
        for at, weight, record in self._of(proposal.predictor, situation):
            if at == horizon:
                own, own_count = own + weight * record.shares, own_count + weight * record.measured
            elif record.measured > 0.0:
                count = weight * record.measured * min(at, horizon) / max(at, horizon)
                share = min(1.0, record.shares / record.measured * max(1.0, at / horizon))
                other, other_count = other + count * share, other_count + count
        return (OTHER_WEIGHT * other / other_count + own) / (OTHER_WEIGHT + own_count)

    def _cost(self, proposal: Proposal, situation: Situation) -> float:
        own = [r for arm, r in self._records.items() if arm[:2] == (proposal.predictor, proposal.horizon)]
        cost = situation.attempt_cost
        for records in (list(self._records.values()), own):
            attempts, spent = sum(record.attempts for record in records), sum(record.cost for record in records)
            cost = (OTHER_WEIGHT * cost + spent) / (OTHER_WEIGHT + attempts)
        return cost


def share_gained(outcome: Outcome) -> float | None:
    """min(steps gained, K)/K, at least 0; None where the steps gained are unknown."""
    if outcome.steps_gained is None:
        return None
    return min(max(outcome.steps_gained / outcome.proposal.horizon, 0.0), 1.0)


def looked_better(outcome: Outcome) -> bool:
    """Whether the mean gain was above 0, clear or not."""
    return outcome.gain is not None and outcome.gain > 0.0


def prior_chance(straightness: float | None) -> float:
    """p_0 = 1/2 + 0.4 c; 1/2 without a straightness."""
    if straightness is None or math.isnan(straightness):
        return 0.5
    return 0.5 + STRAIGHT * min(1.0, max(-1.0, straightness))
