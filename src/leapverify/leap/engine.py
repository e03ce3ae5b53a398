"""What happens at a checkpoint of a run that goes on: look, choose, try, commit, and say so."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from leapverify.core.ranks import Ranks
from leapverify.core.weights import all_finite
from leapverify.leap.alerts import Alert, Alerts
from leapverify.leap.anneal.live import LiveAnnealing
from leapverify.leap.attempt import Attempt, Attempter
from leapverify.leap.commit import FirstLeap, commit_leap
from leapverify.leap.config import LeapConfig
from leapverify.leap.event import LeapEvent, Status
from leapverify.leap.leakage import LeakageCheck
from leapverify.leap.ledger import Ledger
from leapverify.leap.live_weights import LiveWeights
from leapverify.leap.observer import Observer
from leapverify.leap.optimizers import adam_state
from leapverify.leap.policy.base import Outcome, Policy, Proposal, Situation
from leapverify.leap.shadow import PendingPrediction, PendingPredictions
from leapverify.trajectory.history import OptimizerState
from leapverify.verify.distributed import DealtBatches
from leapverify.verify.sampling import Exhausted, FreshBatches
from leapverify.verify.sequential import MINIMUM

logger = logging.getLogger(__name__)

WATCHING_SHARE = 0.1
"""Of all that may be spent, held-out losses that only alerts read take at most so much."""
SNAPSHOT_SHARE = 0.3
"""Of all that may be spent, snapshots take at most so much: where it is reached, checkpoints are passed by."""


@dataclass
class Engine:
    """The parts of one engine and its counts; `LeapVerify` builds it and calls it."""

    model: nn.Module
    optimizers: Sequence[Optimizer]
    config: LeapConfig
    weights: LiveWeights
    ledger: Ledger
    observer: Observer
    fresh: FreshBatches | DealtBatches | None
    policy: Policy | None
    """None in monitor mode."""
    attempter: Attempter | None = None
    """Makes attempts, and measures held-out losses; None without held-out data."""
    annealing: LiveAnnealing | None = None
    waiting: PendingPredictions = field(default_factory=PendingPredictions)
    alerts: Alerts = field(default_factory=Alerts)
    leakage: LeakageCheck = field(default_factory=LeakageCheck)
    leak: str | None = None
    """The warning that held-out sequences are trained on, until an event carries it."""
    real: int = 0
    leapt: int = 0
    attempts: int = 0
    accepted: int = 0
    since_leap: int = 0
    since_checkpoint: int = 0
    first: FirstLeap | None = None
    """The first leap, until the step after it has shown whether it lasts."""

    @property
    def ranks(self) -> Ranks:
        """The ranks of the run."""
        return self.ledger.ranks

    @property
    def effective(self) -> int:
        """Real steps and those leapt over."""
        return self.real + self.leapt

    def draw(self) -> Any:
        """A fresh held-out batch."""
        assert self.fresh is not None
        batch = self.fresh.draw()
        self.drew(batch)
        self.look_for_leak()
        return batch

    def drew(self, batch: Any) -> None:
        """Give the leakage check what was drawn, by other ranks too: this rank may train on it."""
        drawn = [batch]
        if isinstance(self.fresh, DealtBatches):
            drawn, self.fresh.round = self.fresh.round, []
        for each in drawn:
            self.leakage.heldout(each)

    def look_for_leak(self) -> None:
        """Warn, once, if a held-out sequence has been among the training batches shown."""
        leak = self.leakage.found()
        if leak is not None:
            logger.warning("leapverify: %s", leak)
            self.leak = leak

    def passed(self, steps: int, seconds: float) -> None:
        """Count real steps, and the seconds that they took."""
        self.real += steps
        self.since_leap += steps
        self.since_checkpoint += steps
        self.ledger.trained(steps, seconds)

    def check_first_leap(self) -> None:
        """After the first real step that follows the first leap: whether the optimizer has undone it.

        Raises:
            ValueError: it has.
        """
        first, self.first = self.first, None
        if first is None or not first.was_undone(self.weights.tensors, self.ranks):
            return
        if first.move is not None:
            self.observer.undo(first.move, self.since_leap)
        self.leapt -= first.horizon
        self.ledger.saved -= first.saved
        names = ", ".join(type(each).__name__ for each in self.optimizers)
        raise ValueError(
            f"{names} put the weights back where they were before the leap: it steps on copies of its own, which "
            "leaping cannot reach; use mode='shadow'"
        )

    def release(self) -> None:
        """Hold no weights and no data any more; the counts stay."""
        self.weights.release()
        self.annealing, self.fresh, self.first = None, None, None
        self.waiting.clear()

    def affords_checkpoint(self) -> bool:
        """Whether the budget covers the least that a checkpoint takes: its snapshot."""
        return self.ledger.within("snapshot", self.ledger.mean_cost("snapshot", 0.0), SNAPSHOT_SHARE)

    def refresh(self) -> str | None:
        """Look the parameters up again. If any has changed, restart everything and return the change in words."""
        change = self.weights.refresh()
        if change is not None:
            self._restart(rebuild=True)
        return change

    def checkpoint(self) -> LeapEvent:
        """Everything that is done every Delta real steps."""
        self.since_checkpoint = 0
        if self.fresh is not None:
            self.fresh.open_window()
        self.observer.step_rate.look(self.real)
        change = self.refresh()
        if not self._finite():
            self._restart(rebuild=False)
            return self._finished(self._blank("nonfinite", "the weights hold values that are not finite"), finite=False)
        self._push()
        seen, straight = self.observer.look(), self.observer.straightness()
        event = self._blank("observed", f"the model changed: {change}; the history begins anew" if change else "")
        event = replace(event, regime=seen.regime, similarity=seen.similarity, straightness=straight)
        if self.policy is not None and self.attempter is not None:
            event = self._try(self.policy, self.attempter, event)
        elif self.annealing is not None:
            event = self._log_annealed(self.annealing, event)
        if self.attempter is not None and event.raw_loss is None and event.loss_now is None:
            event = replace(event, raw_loss=self._watched(self.attempter))
        return self._finished(event, finite=True)

    def actual(self, pending: PendingPrediction) -> LeapEvent:
        """The event of a shadow prediction whose K real steps are over: what they reached on the same sequences."""
        assert self.attempter is not None
        loss = self.attempter.mean_loss(pending.batches)
        fall, gain = pending.loss_now - loss, pending.loss_now - pending.loss_predicted
        event = self._blank("actual", pending.reason(self.real))
        return self._finished(
            replace(
                event,
                predictor=pending.predictor,
                horizon=pending.horizon,
                loss_now=pending.loss_now,
                loss_predicted=pending.loss_predicted,
                loss_actual=loss,
                gain=gain,
                gain_fraction=gain / fall if fall > 0.0 and self.real == pending.due else None,
            ),
            finite=None,
        )

    def optimizer_state(self, horizon: int) -> OptimizerState | None:
        """Adam's state with the rates of the coming K steps; None where no single Adam trains all weights."""
        return adam_state(self.optimizers, self.weights.whole, self.effective, self.observer.rates(horizon))

    def _watched(self, attempter: Attempter) -> float | None:
        """The held-out loss of one fresh batch, for the alerts; None beyond the budget."""
        cost = self.ledger.mean_cost("watch", attempter.batch_size.positions)
        if not self.ledger.within("watch", cost, WATCHING_SHARE):
            return None
        try:
            with self.ledger.moved("verify", "watch"):
                return attempter.mean_loss([self.draw()])
        except Exhausted:  # an attempt has used all that this checkpoint may
            return None

    def _try(self, policy: Policy, attempter: Attempter, event: LeapEvent) -> LeapEvent:
        event = replace(event, policy=policy.name)
        if self.ledger.budget is not None and attempter.affordable() < MINIMUM:
            return replace(event, status="skipped", reason=event.reason or "the budget does not cover an attempt yet")
        # All ranks choose from what rank 0 sees, so that they probe alike; what rank 0 has chosen is done.
        situation = self.ranks.broadcast("situation", self._situation(policy, attempter, event))
        choice = self.ranks.broadcast("choice", policy.choose(situation, attempter.probe()))
        if choice.proposal is None:
            return replace(event, status="skipped", reason=event.reason or choice.reason)
        return self._attempt(policy, attempter, event, choice.proposal)

    def _attempt(self, policy: Policy, attempter: Attempter, event: LeapEvent, proposal: Proposal) -> LeapEvent:
        self.ledger.agree()
        before = self.ledger.spent
        found = attempter.attempt(proposal, partial(self._commit, proposal.horizon))
        self.attempts += found.status != "declined"
        if found.status == "accepted":
            self.accepted += 1
            if self.config.mode == "live":
                self.begin_after_leap()
        self.ledger.agree()
        gain, cost = found.comparison.gain if found.comparison else None, self.ledger.spent - before
        policy.learn(Outcome(proposal, event.regime, found.status, gain, found.steps_gained, cost))
        if self.config.mode == "shadow":
            self.waiting.expect(self.real, proposal, found.comparison)
        reason = "; ".join(each for each in (event.reason, found.reason) if each)
        event = event.attempted(proposal, found.status, reason, found.steps_gained, found.comparison)
        return replace(event, effective_step=self.effective)

    def _commit(self, horizon: int, attempt: Attempt) -> bool:
        """Carry an accepted leap out, in mode `live`; whether theta_hat stays."""
        if self.config.mode != "live":
            return False
        saved = min(attempt.steps_credit or 0.0, horizon) * self.ledger.step_cost
        first = commit_leap(
            self.weights, self.optimizers, self.observer, self.config, horizon, saved, first=self.accepted == 0
        )
        self.leapt += horizon
        self.ledger.saved += saved
        self.first = first or self.first
        return True

    def begin_after_leap(self) -> None:
        """Restart history, averages and the last fingerprint: no difference is ever taken across a leap."""
        self._restart(rebuild=False)
        self.since_leap = 0
        self._push()

    def _restart(self, *, rebuild: bool) -> None:
        self.weights.history.reset()
        self.observer.restart(rebuild=rebuild)
        if self.annealing is not None:
            self.annealing.restart(rebuild=rebuild)
        self.waiting.clear()

    def _push(self) -> None:
        self.weights.push(self.effective, self.ledger)

    def _finite(self) -> bool:
        with self.ledger.part("finite", self.weights.device):
            finite = all_finite(self.weights.tensors, self.weights.shards)
        self.ledger.passes("finite", 0.5)
        return finite

    def _situation(self, policy: Policy, attempter: Attempter, event: LeapEvent) -> Situation:
        size = attempter.batch_size
        least = 2.0 * max(MINIMUM, size.sequences) * size.per_sequence
        return Situation(
            step=self.real,
            effective_step=self.effective,
            interval=self.config.interval,
            since_leap=self.since_leap,
            regime=event.regime,
            similarity=event.similarity,
            straightness=event.straightness,
            snapshots=len(self.weights.history),
            step_cost=self.ledger.step_cost,
            attempt_cost=self.ledger.cost_of_positions(least),
            allowance=self.ledger.allowance,
            decaying=self.observer.in_decay(),
            remaining=self._remaining(policy),
            lacking=attempter.lacking(policy.predictors),
        )

    def _remaining(self, policy: Policy) -> int | None:
        """Steps that a leap may go: to the end of the run, and of what the schedule lets it pass."""
        total = self.config.total_steps
        left = [] if total is None else [total - self.effective]
        if self.config.schedule == "advance":
            asked = [getattr(policy, "horizon", None) or 0, *(getattr(policy, "horizons", None) or ())]
            into = bool(getattr(policy, "leap_in_decay", False))
            ahead = self.observer.until_decay(self.effective, leap_in_decay=into, least=max(asked))
            left += [] if ahead is None else [ahead]
        return min(left, default=None)

    def _log_annealed(self, annealing: LiveAnnealing, event: LeapEvent) -> LeapEvent:
        found = annealing.look(self.real)
        if found is None:
            return event
        return replace(
            event,
            raw_loss=found.raw_loss,
            annealed_loss=found.loss,
            anneal_window_steps=found.window_steps,
            anneal_shape=found.shape,
            sequences=found.sequences,
            reason=event.reason or found.reason,
        )

    def _blank(self, status: Status, reason: str) -> LeapEvent:
        return LeapEvent(self.real, self.effective, self.config.mode, status, reason)

    def _finished(self, event: LeapEvent, *, finite: bool | None) -> LeapEvent:
        """The event with alerts (of a checkpoint, where `finite` is known), held-out use and overhead."""
        self.ledger.agree()
        found: list[Alert] = []
        if finite is not None:
            loss = event.raw_loss if event.raw_loss is not None else event.loss_now
            loss = math.nan if loss is None and event.verdict == "non-finite" else loss
            overhead, budget = self.ledger.overhead, self.ledger.budget
            found += self.alerts.look(self.real, event.regime, loss, finite, overhead, budget)
        leak = next((each for each in self.ranks.all_gather("leaks", self.leak) if each is not None), None)
        if leak is not None:
            found.append(Alert("overlap", leak))
            self.leak = None
        for alert in found:
            logger.info("%s: %s", alert.kind, alert.text)
        return replace(
            event,
            overhead=self.ledger.overhead,
            heldout_batches=self.fresh.draws if self.fresh else 0,
            heldout_passes=self.fresh.passes if self.fresh else None,
            alerts=tuple(found),
        )
