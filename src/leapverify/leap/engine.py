"""What happens at a checkpoint of a run that goes on: look, choose, try, settle, and say so."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from torch import nn
from torch.optim import Optimizer

from leapverify.history import OptimizerState
from leapverify.leap.alerts import Alert, Alerts
from leapverify.leap.annealing import Annealing
from leapverify.leap.attempt import Attempt, Attempter, Unit
from leapverify.leap.event import LeapEvent, Status
from leapverify.leap.ledger import Ledger
from leapverify.leap.observer import Observer
from leapverify.leap.optimizers import Sample, adam_state, reset_moments
from leapverify.leap.options import Options
from leapverify.leap.overlap import Overlap
from leapverify.leap.policy import Outcome, Policy, Proposal, Situation
from leapverify.leap.schedule import advance
from leapverify.leap.shadow import Pending, Waiting
from leapverify.leap.trajectory import Trajectory
from leapverify.verify.fresh import FreshBatches
from leapverify.verify.sequential import MINIMUM
from leapverify.weights import all_finite

logger = logging.getLogger(__name__)

SNAPSHOT_SHARE = 0.3
"""Of all that may be spent, snapshots take at most so much: where it is reached, checkpoints are passed by."""


@dataclass
class Trial:
    """What trying takes: a policy that proposes and an attempter that judges."""

    policy: Policy
    attempter: Attempter
    unit: Unit
    waiting: Waiting = field(default_factory=Waiting)


@dataclass
class Engine:
    """The parts of one engine and its counts; `LeapVerify` builds it and calls it."""

    model: nn.Module
    optimizers: Sequence[Optimizer]
    options: Options
    trajectory: Trajectory
    ledger: Ledger
    observer: Observer
    alerts: Alerts
    overlap: Overlap
    fresh: FreshBatches | None
    trial: Trial | None = None
    """None in monitor mode."""
    annealing: Annealing | None = None
    real: int = 0
    leapt: int = 0
    attempts: int = 0
    accepted: int = 0
    since_leap: int = 0
    since_checkpoint: int = 0
    sample: Sample | None = None
    """Of the first leap, until the step after it has shown whether it lasts."""

    @property
    def effective(self) -> int:
        """Real steps and those leapt over."""
        return self.real + self.leapt

    def draw(self) -> Any:
        """A fresh held-out batch."""
        assert self.fresh is not None
        batch = self.fresh.draw()
        self.overlap.heldout(batch)
        return batch

    def passed(self, steps: int) -> None:
        """Count real steps."""
        self.real += steps
        self.since_leap += steps
        self.since_checkpoint += steps
        self.ledger.steps += steps

    def affords_checkpoint(self) -> bool:
        """Whether the budget covers the least that a checkpoint takes: its snapshot."""
        return self.ledger.within("snapshot", self.ledger.mean_cost("snapshot", 0.0), SNAPSHOT_SHARE)

    def refresh(self) -> str | None:
        """Look the parameters up again; what has changed, in words, if anything: everything then begins anew."""
        change = self.trajectory.refresh()
        if change is not None:
            self._begin_anew(rebuild=True)
        return change

    def checkpoint(self) -> LeapEvent:
        """Everything that is done every Delta real steps."""
        self.since_checkpoint = 0
        self.observer.pace.look(self.real)
        change = self.refresh()
        if not self._finite():
            self._begin_anew(rebuild=False)
            return self._finished(self._blank("nonfinite", "the weights hold values that are not finite"), finite=False)
        self._push()
        seen, straight = self.observer.look(), self.observer.straightness()
        event = self._blank("observed", f"the model changed: {change}; the history begins anew" if change else "")
        event = replace(event, regime=seen.regime, similarity=seen.similarity, straightness=straight)
        if self.trial is not None:
            event = self._try(self.trial, event)
        elif self.annealing is not None:
            event = self._log_annealed(self.annealing, event)
        return self._finished(event, finite=True)

    def actual(self, pending: Pending) -> LeapEvent:
        """What the real steps did that a shadow prediction had foretold."""
        assert self.trial is not None
        loss = self.trial.attempter.mean_loss(pending.batches)
        fall, gain = pending.loss_now - loss, pending.loss_now - pending.loss_predicted
        event = self._blank("actual", f"{pending.horizon} real steps after the prediction at step {pending.step}")
        return self._finished(
            replace(
                event,
                predictor=pending.predictor,
                horizon=pending.horizon,
                loss_now=pending.loss_now,
                loss_predicted=pending.loss_predicted,
                loss_actual=loss,
                gain=gain,
                gain_fraction=gain / fall if fall > 0.0 else None,
            ),
            finite=None,
        )

    def check_first_leap(self) -> None:
        """After the first real step that follows the first leap: whether the optimizer has undone it.

        Raises:
            ValueError: it has.
        """
        sample, self.sample = self.sample, None
        if sample is not None and sample.undone(self.trajectory.tensors):
            names = ", ".join(type(each).__name__ for each in self.optimizers)
            raise ValueError(
                f"{names} put the weights back where they were before the leap: it steps on copies of its own, which "
                "leaping cannot reach; use mode='shadow'"
            )

    def _try(self, trial: Trial, event: LeapEvent) -> LeapEvent:
        event = replace(event, policy=trial.policy.name)
        if self.ledger.budget is not None and trial.attempter.affordable(trial.unit) < MINIMUM:
            return replace(event, status="skipped", reason=event.reason or "the budget does not cover an attempt yet")
        choice = trial.policy.choose(self._situation(trial, event), trial.attempter.probe(self.trajectory, self._adam))
        if choice.proposal is None:
            return replace(event, status="skipped", reason=event.reason or choice.reason)
        return self._attempt(trial, event, choice.proposal)

    def _attempt(self, trial: Trial, event: LeapEvent, proposal: Proposal) -> LeapEvent:
        before = self.ledger.spent
        found = trial.attempter.attempt(
            self.trajectory,
            proposal,
            lambda: self._adam(proposal.horizon),
            trial.unit,
            lambda attempt: self._settle(proposal, attempt),
        )
        self.attempts += found.status != "declined"
        if found.status == "accepted":
            self.accepted += 1
            if self.options.mode == "live":
                self._begin_after_leap()
        compared = found.comparison
        outcome = Outcome(
            proposal=proposal,
            regime=event.regime,
            status=found.status,
            gain=compared.gain if compared else None,
            steps_gained=found.steps_gained,
            cost=self.ledger.spent - before,
        )
        trial.policy.learn(outcome)
        if self.options.mode == "shadow":
            self._wait_for_actual(trial, proposal, found)
        return _told(event, self.effective, proposal, found)

    def _settle(self, proposal: Proposal, attempt: Attempt) -> bool:
        """Carry an accepted leap out: schedule and counters while the weights can still be put back."""
        if self.options.mode != "live":
            return False
        if self.accepted == 0:
            self.sample = Sample(self.trajectory.history[-1].tensors)
            self.sample.leapt(self.trajectory.tensors)
        if self.options.schedule == "advance":
            with self.ledger.part("schedule"):
                advance(self.observer.pace.moving, proposal.horizon)
                self.observer.pace.leapt()
        if self.options.moments == "reset":
            reset_moments(self.optimizers, self.trajectory.tensors)
        self.leapt += proposal.horizon
        saved = min(attempt.steps_gained or 0.0, proposal.horizon)
        self.ledger.saved += saved * self.ledger.step_cost
        return True

    def _begin_after_leap(self) -> None:
        """No difference is ever taken across a leap: history, averages and the last fingerprint begin anew."""
        self._begin_anew(rebuild=False)
        self.since_leap = 0
        self._push()

    def _begin_anew(self, *, rebuild: bool) -> None:
        self.trajectory.history.reset()
        self.observer.begin_anew(rebuild=rebuild)
        if self.annealing is not None:
            self.annealing.begin_anew(rebuild=rebuild)
        if self.trial is not None:
            self.trial.waiting.clear()

    def _push(self) -> None:
        with self.ledger.part("snapshot", self.trajectory.device):
            self.trajectory.history.push(self.effective, self.trajectory.tensors)
        self.ledger.passes("snapshot", 1.0)

    def _finite(self) -> bool:
        with self.ledger.part("finite", self.trajectory.device):
            finite = all_finite(self.trajectory.tensors)
        self.ledger.passes("finite", 0.5)
        return finite

    def _adam(self, horizon: int) -> OptimizerState | None:
        return adam_state(self.optimizers, self.trajectory.tensors, self.effective, self.observer.rates(horizon))

    def _situation(self, trial: Trial, event: LeapEvent) -> Situation:
        total = self.options.total_steps
        left = (None if total is None else total - self.effective, self.observer.steps_left())
        least = 2.0 * max(MINIMUM, trial.unit.sequences) * trial.unit.per_sequence
        return Situation(
            step=self.real,
            effective_step=self.effective,
            interval=self.options.interval,
            since_leap=self.since_leap,
            regime=event.regime,
            similarity=event.similarity,
            straightness=event.straightness,
            snapshots=len(self.trajectory.history),
            step_cost=self.ledger.step_cost,
            attempt_cost=self.ledger.cost_of_positions(least),
            allowance=self.ledger.allowance,
            decaying=self.observer.in_decay(),
            remaining=min((each for each in left if each is not None), default=None),
        )

    def _wait_for_actual(self, trial: Trial, proposal: Proposal, found: Attempt) -> None:
        compared = found.comparison
        if compared is None or compared.loss_now is None or compared.loss_predicted is None:
            return
        trial.waiting.add(
            Pending(
                due=self.real + proposal.horizon,
                step=self.real,
                predictor=proposal.predictor,
                horizon=proposal.horizon,
                loss_now=compared.loss_now,
                loss_predicted=compared.loss_predicted,
                batches=compared.batches,
            )
        )

    def _log_annealed(self, annealing: Annealing, event: LeapEvent) -> LeapEvent:
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
        return LeapEvent(self.real, self.effective, self.options.mode, status, reason)

    def _finished(self, event: LeapEvent, *, finite: bool | None) -> LeapEvent:
        """The event with alerts (of a checkpoint, where `finite` is known), held-out use and overhead."""
        found: list[Alert] = []
        if finite is not None:
            loss = event.raw_loss if event.raw_loss is not None else event.loss_now
            overhead, budget = self.ledger.overhead, self.ledger.budget
            found += self.alerts.look(self.real, event.regime, loss, finite, overhead, budget)
        leak = self.overlap.found()
        if leak is not None:
            logger.warning("leapverify: %s", leak)
            found.append(Alert("overlap", leak))
        for alert in found:
            logger.info("%s: %s", alert.kind, alert.text)
        return replace(
            event,
            overhead=self.ledger.overhead,
            heldout_batches=self.fresh.draws if self.fresh else 0,
            heldout_passes=self.fresh.passes if self.fresh else None,
            alerts=tuple(found),
        )


def _told(event: LeapEvent, effective: int, proposal: Proposal, found: Attempt) -> LeapEvent:
    """The event with what came of the attempt."""
    compared = found.comparison
    event = replace(
        event,
        effective_step=effective,
        status=cast(Status, found.status),
        reason=found.reason,
        predictor=proposal.predictor,
        horizon=proposal.horizon,
        steps_gained=found.steps_gained,
    )
    if compared is None:
        return event
    return replace(
        event,
        verdict=compared.decision,
        loss_now=compared.loss_now,
        loss_predicted=compared.loss_predicted,
        gain=compared.gain,
        lower=compared.lower,
        sequences=compared.sequences,
    )
