"""Raise K while the held-out loss falls, then refine: a line search along the predicted direction.

Source: Fast Forward (arXiv 2409.04206) repeats the newest step of low-rank training while the loss of a small
held-out batch falls. Here K doubles, which needs log2 K probes instead of K.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from leapverify.leap.policy.base import (
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
from leapverify.predict import predictor as catalogued

DOUBLINGS = 8
"""Of K at most, in one search."""

REFINEMENTS = 2
"""Halvings of the bracket; each costs at most two probes."""

LONGEST_WAIT = 16
"""Checkpoints between two searches that found nothing."""


class LineSearch:
    """Proposes the horizon of the greatest held-out gain along one predictor.

    K_0, 2 K_0, 4 K_0, ... are probed while the gain exceeds the best so far; then K +- K/2 and, around the best of
    these, +- K/4. At most 1 + 8 + 4 probes a search, each a prediction and a forward pass. The greatest of several
    noisy gains is too high on average; what is proposed is therefore verified on other batches. Of a predictor whose
    result does not depend on K only K_0 is probed.

    Args:
        predictor: its name in the catalogue.
        horizon: K_0, steps; None for a quarter of the interval between checkpoints.
        leap_in_decay: whether to leap in the schedule's final decay too.

    Raises:
        ValueError: an unknown predictor, or a horizon below 1.
    """

    name = "line-search"

    def __init__(self, predictor: str = "linear", horizon: int | None = None, *, leap_in_decay: bool = False) -> None:
        needs = catalogued(predictor).needs
        self._snapshots, self._moving = needs.snapshots, needs.horizon
        self.predictors = (predictor,)
        self.horizon = None if horizon is None else require_horizon(horizon)
        self.leap_in_decay = leap_in_decay
        self._back_off = BackOff(LONGEST_WAIT)

    def choose(self, situation: Situation, probe: Probe) -> LeapChoice:
        """Search, and propose the best horizon if it gains anything."""
        waiting = self._back_off.look(situation)
        first = self.horizon or max(1, situation.interval // 4)
        reason = refusal(situation, first, self._snapshots, leap_in_decay=self.leap_in_decay)
        if reason is not None:
            return LeapChoice(None, reason)
        if waiting:
            return LeapChoice(None, f"the last search found nothing that holds: waiting {waiting} checkpoint(s)")
        horizon, gain, probes = self._search(first, situation.remaining, probe)
        if not gain > 0.0:
            self._back_off.failed()
            return LeapChoice(None, f"no horizon from {first} steps on lowers the loss")
        return LeapChoice(Proposal(self.predictors[0], horizon), f"best of {probes} horizons, gain {gain:.3g}")

    def learn(self, outcome: Outcome) -> None:
        """Wait longer after each search whose result was refused; an accepted one ends the waiting."""
        if outcome.status == "accepted":
            self._back_off.succeeded()
        else:
            self._back_off.failed()

    def state_dict(self) -> dict[str, Any]:
        """How long it still waits, and why."""
        return self._back_off.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: the state is not of this policy.
        """
        require_state(state, ("failures", "step", "interval", "until"), self.name)
        self._back_off.load_state_dict(state)

    def _search(self, first: int, remaining: int | None, probe: Probe) -> tuple[int, float, int]:
        """The best horizon, its gain (-inf where it has no finite one), and the number of probes."""
        found: dict[int, float] = {}

        def gain(horizon: int) -> float:
            if horizon < 1 or (remaining is not None and horizon > remaining):
                return -math.inf
            if horizon not in found:
                value = probe(Proposal(self.predictors[0], horizon))
                found[horizon] = -math.inf if value is None or not math.isfinite(value) else value
            return found[horizon]

        best = first
        for _ in range(DOUBLINGS if self._moving else 0):
            if gain(best) <= 0.0 or not gain(2 * best) > gain(best):
                break
            best *= 2
        step = best
        for _ in range(REFINEMENTS if self._moving and gain(best) > 0.0 else 0):
            step //= 2
            best = max((best, best + step, best - step), key=gain)
        return best, gain(best), len(found)
