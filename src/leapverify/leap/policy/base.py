"""What a policy gets at a checkpoint, what it answers, and what it learns from the attempt.

A policy never sees weights or batches. It chooses from a few numbers, the situation; it may ask a probe what a proposal
would gain; and it gets the outcome of the attempt. It draws no random number, so equal situations and outcomes give
equal choices. Its state is plain JSON, so a resumed run chooses as if it had never stopped.

Costs and allowances are in the unit of the ledger: seconds, or forward tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

STATUSES = ("accepted", "rejected", "declined", "nonfinite")
"""How an attempt may end."""

CHAOTIC = "chaotic"
"""The regime in which nothing is attempted unless its own record says that it pays."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A leap that might be made."""

    predictor: str
    """Name in the catalogue of predictors."""
    horizon: int
    """K, steps."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known at a checkpoint."""

    step: int
    """Real steps taken."""
    effective_step: int
    """Real steps and leapt ones."""
    interval: int
    """Delta, steps between checkpoints."""
    since_leap: int
    """Real steps since the last accepted leap, or the start."""
    regime: str
    """unknown, chaotic, transition or stable."""
    similarity: float | None
    """s_t; None at the first checkpoint and after a leap."""
    straightness: float | None
    """c_t; None where fewer than three snapshots are held."""
    snapshots: int
    """Snapshots in the history."""
    step_cost: float
    """Mean cost of one training step, unit of the ledger."""
    attempt_cost: float
    """What the forward passes of the shortest attempt cost, same unit."""
    allowance: float
    """What the budget leaves to spend now, same unit; infinite without a budget."""
    decaying: bool
    """Whether the schedule is in its final decay."""
    remaining: int | None
    """Effective steps left in the schedule, where that is known."""
    lacking: tuple[str, ...] = ()
    """Predictors that would decline here for want of something other than snapshots."""


@dataclass(frozen=True, slots=True)
class LeapChoice:
    """A proposal, or none, and why."""

    proposal: Proposal | None
    reason: str
    """One sentence for the record."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    proposal: Proposal
    regime: str
    """The regime in which it was made."""
    status: str
    """One of `STATUSES`."""
    gain: float | None
    """L_t - L_hat, nats per token."""
    steps_gained: float | None
    """Gain over the fall of the loss in a real step; None unless accepted and that rate is above 0."""
    cost: float
    """Of the whole attempt, unit of the ledger."""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"outcome status {self.status!r} is unknown: use {', '.join(STATUSES)}")


Probe: TypeAlias = Callable[[Proposal], float | None]
"""Held-out gain of a proposal on one selection batch, nats per token, always the same batch within a checkpoint; None
where the predictor declined or the loss is not finite."""


@runtime_checkable
class Policy(Protocol):
    """Decides at each checkpoint whether to leap, with which predictor, how far."""

    @property
    def name(self) -> str:
        """What the record calls it."""
        ...

    @property
    def predictors(self) -> tuple[str, ...]:
        """Every predictor that it may propose."""
        ...

    def choose(self, situation: Situation, probe: Probe) -> LeapChoice:
        """Propose a leap or none; the caller attempts it and calls `learn`."""
        ...

    def learn(self, outcome: Outcome) -> None:
        """Take in how an attempt ended."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that was learned, as JSON."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        ...


def refusal(situation: Situation, horizon: int, snapshots: int, *, leap_in_decay: bool) -> str | None:
    """Why no leap of K steps can be made here, whatever it would gain; None if it can.

    Args:
        situation: the checkpoint.
        horizon: K, steps; the shortest that might be proposed.
        snapshots: that the predictor needs.
        leap_in_decay: whether to leap in the schedule's final decay too.
    """
    if situation.decaying and not leap_in_decay:
        return "the schedule is in its final decay"
    if situation.remaining is not None and horizon > situation.remaining:
        return f"a leap of {horizon} steps is more than the {situation.remaining} that remain"
    if situation.snapshots < snapshots:
        return f"{snapshots} snapshots are needed, {situation.snapshots} held"
    return None if situation.allowance > 0.0 else "the budget leaves nothing to spend now"


@dataclass(slots=True)
class BackOff:
    """Waits longer after each failure that follows a failure: 1, 2, 4, ... checkpoints up to a limit.

    Checkpoints are told by their steps, so those at which the policy was not asked count as well.
    """

    limit: int
    """Checkpoints waited at most."""
    failures: int = 0
    """In a row."""
    step: int = 0
    """Real steps at the last checkpoint seen."""
    interval: int = 0
    """Steps between checkpoints there; 0 before any."""
    until: int = 0
    """Real steps from which on there is no waiting."""

    def look(self, situation: Situation) -> int:
        """See a checkpoint; returns how many are left to wait, this one included."""
        self.step, self.interval = situation.step, max(1, situation.interval)
        return max(0, -(-(self.until - self.step) // self.interval))

    def failed(self) -> None:
        """Wait min(2^(failures - 1), limit) checkpoints after the last one seen."""
        self.failures += 1
        wait = min(2 ** min(self.failures - 1, 30), self.limit)
        self.until = self.step + self.interval * (wait + 1)

    def succeeded(self) -> None:
        """Wait no more."""
        self.failures = self.until = 0

    def state_dict(self) -> dict[str, int]:
        """As JSON."""
        return {name: getattr(self, name) for name in ("failures", "step", "interval", "until")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.failures, self.step = int(state["failures"]), int(state["step"])
        self.interval, self.until = int(state["interval"]), int(state["until"])


def require_state(state: Mapping[str, Any], keys: Sequence[str], name: str) -> None:
    """Refuse a state that lacks something.

    Raises:
        ValueError: a key is missing.
    """
    missing = [key for key in keys if key not in state]
    if missing:
        raise ValueError(f"the state has no {', '.join(missing)}: pass what state_dict() of policy {name} gave")


def require_horizon(horizon: int) -> int:
    """The horizon itself, if it is one.

    Raises:
        ValueError: below 1, or no whole number.
    """
    if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1:
        raise ValueError(f"horizon = {horizon!r} is no leap: give a whole number of steps, at least 1")
    return horizon
