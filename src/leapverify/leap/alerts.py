"""Alerts: what a user should look at now, each with its numbers, given once and not at every checkpoint."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNKNOWN = "unknown"
STABLE = "stable"

WINDOW = 20
"""Losses that a spike is measured against."""
ENOUGH = 5
"""Losses that are needed before a spike can be recognized."""
DEVIATIONS = 6.0
"""Robust standard deviations (1.4826 MAD) above the median that make a spike."""
FLOOR = 0.01
"""Least excess over the median that makes a spike, as a share of it."""
GONE_STABLE = 5
"""Stable checkpoints in a row after which a run has gone stable."""
GRACE = 100
"""Real steps before the overhead is judged: what is done once weighs much in a run that has just begun."""
SETTLED = 0.8
"""Share of the budget below which the overhead must fall before a further alert."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert."""

    kind: str
    """regime | spike | non-finite | stable | overhead."""
    text: str
    """A sentence with the numbers."""


class Alerts:
    """Watches the checkpoints of one run. An alert comes when a state begins, and again only after it has ended."""

    def __init__(self) -> None:
        self._regime = UNKNOWN
        self._losses: list[float] = []
        self._stable = 0
        self._on = {"spike": False, "non-finite": False, "loss": False, "overhead": False}

    def look(
        self, step: int, regime: str, loss: float | None, finite: bool, overhead: float | None, budget: float | None
    ) -> tuple[Alert, ...]:
        """What is new at this checkpoint.

        Args:
            step: real optimizer steps taken.
            regime: unknown | chaotic | transition | stable.
            loss: held-out loss of the run's weights, nats per token; NaN where it was measured and is not finite; None
                where none was measured.
            finite: whether the weights are.
            overhead: share of the run's time that the tool took so far.
            budget: share that it may take; None for no limit.

        Returns:
            The alerts, most often none.
        """
        found = (
            self._non_finite(step, loss, finite),
            self._spike(step, loss),
            self._change(step, regime),
            self._gone_stable(step, regime),
            self._overhead(step, overhead, budget),
        )
        return tuple(each for each in found if each is not None)

    def state_dict(self) -> dict[str, Any]:
        """The state, as JSON values."""
        return {"regime": self._regime, "losses": list(self._losses), "stable": self._stable, "on": dict(self._on)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._regime, self._stable = state["regime"], state["stable"]
        self._losses, self._on = list(state["losses"]), {**self._on, **state["on"]}

    def _begins(self, kind: str, now: bool) -> bool:
        began = now and not self._on[kind]
        self._on[kind] = now
        return began

    def _non_finite(self, step: int, loss: float | None, finite: bool) -> Alert | None:
        bad_weights = self._begins("non-finite", not finite)
        # Where no loss was measured, one that was not finite has not ended.
        bad_loss = loss is not None and self._begins("loss", not math.isfinite(loss))
        if not bad_weights and not bad_loss:
            return None
        what = "the weights hold values that are not finite" if not finite else f"the held-out loss is {loss}"
        return Alert(
            "non-finite", f"at step {step} {what}: go back to an earlier checkpoint or lower the learning rate"
        )

    def _spike(self, step: int, loss: float | None) -> Alert | None:
        if loss is None or not math.isfinite(loss):
            return None
        before = self._losses
        self._losses = [*before, loss][-WINDOW:]
        if len(before) < ENOUGH:
            return None
        median = statistics.median(before)
        spread = 1.4826 * statistics.median(abs(each - median) for each in before)
        limit = median + max(DEVIATIONS * spread, FLOOR * abs(median))
        if not self._begins("spike", loss > limit):
            return None
        return Alert(
            "spike",
            f"the held-out loss jumped to {loss:.4f} at step {step}: the last {len(before)} have a median of "
            f"{median:.4f}, and nothing above {limit:.4f} was expected",
        )

    def _change(self, step: int, regime: str) -> Alert | None:
        before = self._regime
        if regime == UNKNOWN:
            return None
        self._regime = regime
        if before in (UNKNOWN, regime):
            return None
        return Alert("regime", f"the run went from {before} to {regime} at step {step}")

    def _gone_stable(self, step: int, regime: str) -> Alert | None:
        if regime == UNKNOWN:
            return None
        self._stable = self._stable + 1 if regime == STABLE else 0
        if self._stable != GONE_STABLE:
            return None
        return Alert(
            "stable",
            f"the run has gone stable: {GONE_STABLE} checkpoints in a row up to step {step}; "
            "more compute now buys little, so reduce it or think of stopping early",
        )

    def _overhead(self, step: int, overhead: float | None, budget: float | None) -> Alert | None:
        if overhead is None or budget is None or step < GRACE:
            return None
        limit = SETTLED * budget if self._on["overhead"] else budget
        if not self._begins("overhead", overhead > limit):
            return None
        return Alert(
            "overhead",
            f"the tool has taken {100 * overhead:.2f} % of the run's time up to step {step}, above its budget "
            f"of {100 * budget:.2f} %: it will look and try less often",
        )
