"""The record of one checkpoint."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from leapverify.leap.alerts import Alert
from leapverify.leap.policy.base import Proposal
from leapverify.verify.comparison import Comparison

Status = Literal["observed", "skipped", "declined", "nonfinite", "rejected", "accepted", "actual", "off"]
_COMPARED = ("loss_now", "loss_predicted", "gain", "lower", "sequences")
"""Fields that an event takes from a comparison of the same names."""


@dataclass(frozen=True, slots=True)
class LeapEvent:
    """One checkpoint: what was seen, what was tried, what came of it, and what it cost.

    Example:
        >>> event = LeapEvent(50, 70, "live", "accepted", "the held-out loss is lower", horizon=20, gain=0.01)
        >>> record = event.to_dict()  # what the log file and the loggers get
        >>> record["effective_step"], record["gain"], "similarity" in record
        (70, 0.01, False)
    """

    step: int
    """Real optimizer steps taken."""
    effective_step: int
    """Real steps and those leapt over, this leap's included."""
    mode: str
    status: Status
    """observed: nothing to try; skipped: the policy tried nothing; declined: the predictor had less than it needs;
    nonfinite: a prediction or a loss was not finite; rejected, accepted: the verdict (in shadow mode, what it would
    have been); actual: K real steps after a shadow prediction; off: the engine has switched itself off."""
    reason: str
    regime: str = "unknown"
    similarity: float | None = None
    straightness: float | None = None
    policy: str | None = None
    predictor: str | None = None
    horizon: int | None = None
    """K, steps."""
    verdict: str | None = None
    """How the comparison ended: accepted | worse | open | non-finite."""
    loss_now: float | None = None
    """L_t over the held-out sequences that were drawn for this attempt."""
    loss_predicted: float | None = None
    loss_actual: float | None = None
    """What K real steps reached on the same sequences (status actual)."""
    gain: float | None = None
    """L_t - L_hat, paired."""
    lower: float | None = None
    """Lower confidence bound of the gain."""
    gain_fraction: float | None = None
    """(L_t - L_hat)/(L_t - L_{t+K}) (status actual)."""
    steps_gained: float | None = None
    """Real steps that the gain is worth at the present rate of progress."""
    sequences: int = 0
    """Held-out sequences that the verdict rests on."""
    raw_loss: float | None = None
    annealed_loss: float | None = None
    """Held-out loss of the annealed weights, on the sequences of raw_loss."""
    anneal_window_steps: float | None = None
    anneal_shape: str | None = None
    cost_s: float = 0.0
    """Seconds that this checkpoint cost."""
    cost_tokens: float = 0.0
    """The same in forward-token equivalents."""
    overhead: float = 0.0
    """Share of the run's time so far that went into the tool."""
    heldout_batches: int = 0
    """Held-out batches drawn so far."""
    heldout_passes: float | None = None
    """Times that the held-out set was gone through so far."""
    alerts: tuple[Alert, ...] = ()

    def attempted(
        self, proposal: Proposal, status: Status, reason: str, steps_gained: float | None, compared: Comparison | None
    ) -> LeapEvent:
        """The same event with what came of an attempt."""
        event = dataclasses.replace(
            self, status=status, reason=reason, predictor=proposal.predictor, horizon=proposal.horizon,
            steps_gained=steps_gained,
        )  # fmt: skip
        if compared is None:
            return event
        numbers = {name: getattr(compared, name) for name in _COMPARED}
        return dataclasses.replace(event, verdict=compared.decision, **numbers)

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON values: what does not exist left out, numbers that are not finite as None."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "alerts":
                value = [dataclasses.asdict(alert) for alert in value] or None
            if value is not None:
                found[field.name] = None if isinstance(value, float) and not math.isfinite(value) else value
        return found
