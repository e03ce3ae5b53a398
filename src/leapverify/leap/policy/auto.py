"""The allocator: tries the leap that is expected to save most for what it costs, and learns from how it ends.

What is expected of a leap by predictor and horizon K is kept by regime (experience.py). An accepted leap starts the
history anew from the weights it reached, so a predictor that needs n snapshots can leap once in max(1, n - 1)
checkpoints. The leap of the highest expected value for each of these checkpoints (of those within a tenth of it, that
of the shortest horizon) is proposed if its value is above 0 and the budget covers its cost. If all it lacks are
snapshots, they are waited for; a lesser leap would start the history anew.

A predictor whose result does not depend on K (an average) is proposed with the shortest horizon alone: it lowers the
loss, but moves no further along the schedule by a longer one. One that lacks something else than snapshots at this
checkpoint is passed over, which is no decline.

Horizons are half the interval between checkpoints and its doublings, up to 64 intervals. Each predictor has a reach,
the longest horizon it may try, at first the second one. An acceptance there that gained at least 0.4 K, or a rejection
of a mean gain above 0, opens the next; any other rejection, or an acceptance that gained less than K/4, takes it one
down. After n rejections in a row, whatever the predictor, min(2^(n-1), 32) checkpoints are waited.

Nothing is tried in the chaotic regime unless the same leap was accepted there before, or everything has been chaotic
for 32 checkpoints: thresholds may be wrong, and without an attempt there would never be a record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leapverify.leap.policy.base import (
    CHAOTIC,
    BackOff,
    LeapChoice,
    Outcome,
    Probe,
    Proposal,
    Situation,
    refusal,
    require_horizon,
    require_state,
)
from leapverify.leap.policy.experience import Experience, LeapEstimate, looked_better, share_gained
from leapverify.predict import predictor as catalogued

PREDICTORS = ("dmd-2", "wnn", "linear")
"""What `auto` tries where the user names none: the first is tried first among equals. Which they are follows from the
bench of all predictors (docs/results/)."""

LONGEST = 64
"""Longest horizon, intervals between checkpoints."""

NEAR = 0.1
"""Share of the highest value that is given up for a shorter horizon."""

GREW, SHRANK = 0.4, 0.25
"""Share of K gained from which the reach grows, and below which it shrinks."""

LONGEST_WAIT = 32
"""Checkpoints waited at most."""

CHAOS_PATIENCE = 32
"""Chaotic checkpoints in a row after which one attempt is made without a record."""

DECLINES = 2
"""In a row, after which a predictor is no longer asked."""


class Auto:
    """The default policy (the head of this file says how it decides).

    Args:
        predictors: names in the catalogue; None for `PREDICTORS`.
        horizons: the only horizons to use, steps; None for half the interval between checkpoints and its doublings.
        leap_in_decay: whether to leap in the schedule's final decay too.

    Raises:
        ValueError: no predictor, an unknown one, or horizons that are none.
    """

    name = "auto"

    def __init__(
        self,
        predictors: Sequence[str] | None = None,
        horizons: Sequence[int] | None = None,
        *,
        leap_in_decay: bool = False,
    ) -> None:
        self.predictors = tuple(dict.fromkeys(PREDICTORS if predictors is None else predictors))
        if not self.predictors or (horizons is not None and not horizons):
            raise ValueError(f"policy auto has no {'horizons' if self.predictors else 'predictors'}: give at least one")
        self.horizons = None if horizons is None else tuple(sorted({require_horizon(each) for each in horizons}))
        self.leap_in_decay = leap_in_decay
        needs = {each: catalogued(each).needs for each in self.predictors}
        self._snapshots = {name: each.snapshots for name, each in needs.items()}
        self._moving = frozenset(name for name, each in needs.items() if each.horizon)
        self._experience = Experience()
        self._reach: dict[str, int] = {}
        self._declines = dict.fromkeys(self.predictors, 0)
        self._back_off = BackOff(LONGEST_WAIT)
        self._chaotic = 0

    def choose(self, situation: Situation, probe: Probe) -> LeapChoice:  # noqa: ARG002
        """The leap that is expected to pay best now, or none."""
        waiting = self._pass_checkpoint(situation)
        asked = [each for each in self.predictors if self._declines[each] < DECLINES]
        if not asked:
            return LeapChoice(None, f"every predictor declined {DECLINES} times: {', '.join(self.predictors)}")
        asked = [each for each in asked if each not in situation.lacking]
        if not asked:
            return LeapChoice(None, f"each predictor lacks something here: {', '.join(situation.lacking)}")
        rungs = self.rungs(situation.interval)
        fewest = min(self._snapshots[each] for each in asked)
        reason = refusal(situation, rungs[0], fewest, leap_in_decay=self.leap_in_decay)
        if reason is None and waiting:
            reason = f"{self._back_off.failures} rejection(s) in a row: waiting {waiting} checkpoint(s)"
        if reason is not None:
            return LeapChoice(None, reason)
        proposals = [
            Proposal(each, horizon) for each in asked for horizon in rungs if horizon <= self._limit(each, situation)
        ]
        if situation.regime == CHAOTIC and self._chaotic <= CHAOS_PATIENCE:
            proposals = [each for each in proposals if self._experience.accepted(each, CHAOTIC)]
        if not proposals:
            return LeapChoice(None, "the regime is chaotic, and nothing was accepted there so far")
        return self._decide(self._best(proposals, situation), situation)

    def learn(self, outcome: Outcome) -> None:
        """Take in how an attempt ended."""
        predictor, horizon = outcome.proposal.predictor, outcome.proposal.horizon
        if outcome.status == "declined":
            self._declines[predictor] = self._declines.get(predictor, 0) + 1
            return
        self._declines[predictor] = 0
        self._experience.add(outcome)
        if outcome.regime == CHAOTIC:
            self._chaotic = 0
        if outcome.status == "accepted":
            self._back_off.succeeded()
            share = share_gained(outcome)
            direction = 0 if share is None else int(share >= GREW) - int(share < SHRANK)
        else:
            self._back_off.failed()
            direction = 1 if looked_better(outcome) else -1
        self._move_reach(predictor, horizon, direction)

    def rungs(self, interval: int) -> tuple[int, ...]:
        """The horizons that may ever be tried, rising."""
        if self.horizons is not None:
            return self.horizons
        first = max(1, interval // 2)
        return tuple(first << doublings for doublings in range(16) if first << doublings <= LONGEST * interval)

    def state_dict(self) -> dict[str, Any]:
        """All that was learned, as JSON."""
        return {
            "experience": self._experience.state_dict(),
            "reach": dict(self._reach),
            "declines": dict(self._declines),
            "back_off": self._back_off.state_dict(),
            "chaotic": self._chaotic,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; predictors that are no longer asked are left out.

        Raises:
            ValueError: the state is not of this policy.
        """
        require_state(state, ("experience", "reach", "declines", "back_off", "chaotic"), self.name)
        self._experience.load_state_dict(state["experience"], self.predictors)
        self._reach = {name: int(reach) for name, reach in state["reach"].items() if name in self._declines}
        self._declines |= {name: int(n) for name, n in state["declines"].items() if name in self._declines}
        self._back_off.load_state_dict(state["back_off"])
        self._chaotic = int(state["chaotic"])

    def _pass_checkpoint(self, situation: Situation) -> int:
        """Let evidence fade and time pass; returns the checkpoints that must be waited, this one included."""
        passed = max(0, situation.step - self._back_off.step) / max(1, situation.interval)
        self._chaotic = self._chaotic + 1 if situation.regime == CHAOTIC else 0
        self._experience.fade(passed)
        return self._back_off.look(situation)

    def _limit(self, predictor: str, situation: Situation) -> int:
        """The longest horizon that may be tried now; a predictor begins with the second."""
        rungs = self.rungs(situation.interval)
        reach = max(rungs[0], self._reach.get(predictor, rungs[:2][-1])) if predictor in self._moving else rungs[0]
        return reach if situation.remaining is None else min(reach, situation.remaining)

    def _checkpoints(self, predictor: str) -> int:
        """That a predictor needs from one leap to the next."""
        return max(1, self._snapshots[predictor] - 1)

    def _best(self, proposals: Sequence[Proposal], situation: Situation) -> LeapEstimate:
        """The shortest horizon among those that come near the highest value a checkpoint; the first of equals."""
        estimates = [self._experience.estimate(each, situation) for each in proposals]
        rates = [min(each.value, each.value / self._checkpoints(each.proposal.predictor)) for each in estimates]
        least = max(rates) - NEAR * abs(max(rates))
        near = [(each, rate) for each, rate in zip(estimates, rates, strict=True) if rate >= least]
        return min(near, key=lambda pair: (pair[0].proposal.horizon, -pair[1]))[0]

    def _decide(self, best: LeapEstimate, situation: Situation) -> LeapChoice:
        proposal = best.proposal
        what = f"{proposal.predictor} by {proposal.horizon} steps"
        unit = situation.step_cost or 1.0
        hope = f"{best.steps:.3g} steps at a chance of {best.chance:.2f} for the cost of {best.cost / unit:.3g}"
        if not best.value > 0.0:
            return LeapChoice(None, f"nothing is expected to pay; best {what}: {hope}")
        needed = self._snapshots[proposal.predictor]
        if situation.snapshots < needed:
            return LeapChoice(
                None, f"{what} is worth waiting for: {needed} snapshots needed, {situation.snapshots} held"
            )
        if best.cost > situation.allowance:
            left = situation.allowance / unit
            return LeapChoice(None, f"{what} costs {best.cost / unit:.3g} steps, the budget leaves {left:.3g}")
        return LeapChoice(proposal, f"{what}: {hope}")

    def _move_reach(self, predictor: str, horizon: int, direction: int) -> None:
        """Let the reach of a predictor follow what became of its longest horizons: up 1, down -1."""
        if not self._back_off.interval:
            return
        rungs = self.rungs(self._back_off.interval)
        reach = self._reach.get(predictor, rungs[:2][-1])
        if direction > 0 and horizon >= reach:
            reach = min((each for each in rungs if each > horizon), default=rungs[-1])
        elif direction < 0 and horizon <= reach:
            reach = max((each for each in rungs if each < horizon), default=rungs[0])
        self._reach[predictor] = reach
