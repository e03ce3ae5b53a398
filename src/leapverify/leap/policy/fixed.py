"""The plainest policy: one predictor, one horizon, at every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leapverify.leap.policy.base import (
    LeapChoice,
    Outcome,
    Probe,
    Proposal,
    Situation,
    refusal,
    require_horizon,
)
from leapverify.predict import predictor as catalogued


class Fixed:
    """Proposes the same leap at every checkpoint at which it can be made.

    Args:
        predictor: its name in the catalogue.
        horizon: K, steps; None for the interval between checkpoints.
        leap_in_decay: whether to leap in the schedule's final decay too.

    Raises:
        ValueError: an unknown predictor, or a horizon below 1.

    Example:
        >>> Fixed("linear", 20).predictors
        ('linear',)
    """

    name = "fixed"

    def __init__(self, predictor: str = "linear", horizon: int | None = None, *, leap_in_decay: bool = False) -> None:
        self._snapshots = catalogued(predictor).needs.snapshots
        self.predictors = (predictor,)
        self.horizon = None if horizon is None else require_horizon(horizon)
        self.leap_in_decay = leap_in_decay

    def choose(self, situation: Situation, probe: Probe) -> LeapChoice:  # noqa: ARG002
        """The one proposal, unless it cannot be made here."""
        horizon = self.horizon or situation.interval
        reason = refusal(situation, horizon, self._snapshots, leap_in_decay=self.leap_in_decay)
        if reason is not None:
            return LeapChoice(None, reason)
        return LeapChoice(Proposal(self.predictors[0], horizon), "at every checkpoint")

    def learn(self, outcome: Outcome) -> None:
        """Nothing is learned."""

    def state_dict(self) -> dict[str, Any]:
        """There is no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is no state."""
