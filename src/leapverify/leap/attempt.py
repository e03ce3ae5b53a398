"""One attempt: predict into the model, compare on fresh held-out batches, keep or put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from leapverify.core.weights import all_finite, block_size, blocks, copy_
from leapverify.leap.ledger import Ledger, copies, network_tokens
from leapverify.leap.parameters import Trajectory
from leapverify.leap.policy.base import Proposal
from leapverify.leap.predictor_context import HeldoutSampler
from leapverify.leap.transaction import Transaction, exact_in, kept_values
from leapverify.predict import Declined, Needs, Predictor, missing, predictor
from leapverify.trajectory.history import History, OptimizerState
from leapverify.verify.comparison import Comparison, compare, mean_loss_of, positions_of
from leapverify.verify.distributed import SharedLoss
from leapverify.verify.heldout import LossFunction
from leapverify.verify.sampling import Exhausted
from leapverify.verify.sequential import MINIMUM


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """How one attempt ended."""

    status: str
    """accepted | rejected | declined | nonfinite."""
    reason: str
    comparison: Comparison | None = None
    steps_gained: float | None = None
    """Gain over the fall of the held-out loss in a real step of the last interval, on the same sequences."""
    steps_credit: float | None = None
    """What of it is sure enough to be reinvested: the lower bound of the gain over the same fall, at least 0. Half of
    `steps_gained` where the criterion has no bound; None where that fall is not above 0."""


class _NonFinite(Exception):
    """A predicted weight is NaN or infinite."""


class _Tried(NamedTuple):
    """A proposal while it is tried."""

    trajectory: Trajectory
    proposal: Proposal
    kept: Sequence[Tensor]
    """theta_t, exact."""
    transaction: Transaction


class Unit(NamedTuple):
    """What one held-out sequence takes, measured once before the run."""

    sequences: int
    positions: int

    @property
    def per_sequence(self) -> float:
        """Forward positions of one sequence."""
        return self.positions / self.sequences


class Attempter:
    """Makes attempts on one model.

    Args:
        model: the model.
        loss: (model, batch) -> scalar, (B,) or (losses, tokens), of this rank's batch.
        draw: gives a fresh held-out batch; raises `Exhausted` rather than give one again.
        ledger: counts what attempts cost.
        alpha: rate of false accepts of one attempt.
        sequences: most held-out sequences of one attempt.
        criterion: one of verify.comparison.CRITERIA.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction,
        draw: Callable[[], Any],
        ledger: Ledger,
        *,
        alpha: float,
        sequences: int,
        criterion: str,
    ) -> None:
        self._model, self._draw, self._ledger, self._ranks = model, draw, ledger, ledger.ranks
        self._loss = SharedLoss(loss, self._ranks)
        self._alpha, self._sequences, self._criterion = alpha, sequences, criterion
        self._parameters = sum(each.numel() for each in model.parameters())
        self._predictors: dict[str, Predictor] = {}

    def lacking(self, trajectory: Trajectory, names: Sequence[str]) -> tuple[str, ...]:
        """Those of some predictors that would decline now for want of something other than snapshots."""
        held = len(trajectory.history)
        needs = {name: self._named(name, trajectory).needs for name in names}
        return tuple(
            name for name, each in needs.items() if each.snapshots <= held and _lacks(each, trajectory.history)
        )

    def attempt(
        self,
        trajectory: Trajectory,
        proposal: Proposal,
        state: Callable[[], OptimizerState | None],
        unit: Unit,
        settle: Callable[[Attempt], bool],
    ) -> Attempt:
        """Try one proposal; the weights are theta_t again afterwards, unless it is accepted and `settle` says so.

        Args:
            trajectory: its newest snapshot is theta_t.
            proposal: predictor and K.
            state: gives the optimizer state for K steps, asked for if the predictor reads it.
            unit: what a sequence costs.
            settle: called with an accepted attempt while the model holds theta_hat: whether to keep it. An exception
                from it puts theta_t back.
        """
        chosen, history = self._named(proposal.predictor, trajectory), trajectory.history
        lacks = _lacks(chosen.needs, history)
        if lacks is not None:
            return Attempt("declined", lacks)
        history.optimizer = state() if chosen.needs.optimizer_state else None
        if chosen.needs.optimizer_state and (history.optimizer is None or not history.optimizer.m):
            return Attempt("declined", "needs Adam's moments of all moved weights, the optimizer has none")
        budget = max(MINIMUM, self.affordable(unit))
        with self._trying(trajectory, proposal) as tried:
            try:
                attempt = self._judged(self._compare(tried, budget), tried)
            except Declined as error:
                return Attempt("declined", error.reason)
            except _NonFinite:
                return Attempt("nonfinite", f"{proposal.predictor} gave weights that are not finite")
            if attempt.status == "accepted" and settle(attempt):
                tried.transaction.commit()
            return attempt

    def affordable(self, unit: Unit) -> int:
        """Most held-out sequences of an attempt that the budget pays for now: each is run under both states."""
        self._ledger.agree()
        allowance = self._ledger.allowance
        cost = 2.0 * self._ledger.cost_of_positions(unit.per_sequence)
        if allowance == float("inf") or cost <= 0.0:
            return self._sequences
        return max(0, min(self._sequences, int(allowance / cost)))

    def probe(
        self, trajectory: Trajectory, state: Callable[[int], OptimizerState | None]
    ) -> Callable[[Proposal], float | None]:
        """A function that gives the held-out gain of proposals, all on one selection batch drawn at the first call.

        It gives None where a predictor declines, a loss is not finite, or no fresh batch is left.
        """
        batches: list[Any] = []
        now: list[float] = []

        def gain(proposal: Proposal) -> float | None:
            chosen = self._named(proposal.predictor, trajectory)
            if _lacks(chosen.needs, trajectory.history) is not None:
                return None
            if not batches:
                try:
                    batches.append(self._draw())
                except Exhausted:
                    return None
                now.append(self._mean(batches))
            trajectory.history.optimizer = state(proposal.horizon) if chosen.needs.optimizer_state else None
            with self._trying(trajectory, proposal) as tried:
                try:
                    self._predict(tried)
                except (Declined, _NonFinite):
                    return None
                found = now[0] - self._mean(batches)
            self._ledger.passes("restore", 1.0)
            return found if abs(found) < float("inf") else None

        return gain

    def mean_loss(self, batches: Sequence[Any]) -> float:
        """Held-out loss of the present weights on given batches."""
        return self._mean(batches)

    def _named(self, name: str, trajectory: Trajectory) -> Predictor:
        """The predictor of a name, with the history given what it draws held-out data from."""
        if name not in self._predictors:
            self._predictors[name] = predictor(name)  # made once: it may have a file to read
        chosen, history = self._predictors[name], trajectory.history
        if chosen.needs.selection or chosen.needs.gradients:
            history.selection = history.gradients = self._drawn(trajectory)
        return chosen

    def _drawn(self, trajectory: Trajectory) -> HeldoutSampler:
        """The same one until the next checkpoint."""
        return trajectory.history.derived(
            "leap drawn", lambda: HeldoutSampler(self._model, trajectory.tensors, self._loss, self._draw)
        )

    def _kept(self, trajectory: Trajectory) -> Sequence[Any]:
        dtype = trajectory.storage.dtype
        if not exact_in(trajectory.tensors, dtype):
            self._ledger.passes("snapshot", 1.0)
        return kept_values(trajectory.tensors, trajectory.history, dtype)

    @contextmanager
    def _trying(self, trajectory: Trajectory, proposal: Proposal) -> Iterator[_Tried]:
        kept = self._kept(trajectory)
        with Transaction(trajectory.tensors, kept, trajectory.before_writes) as transaction:
            yield _Tried(trajectory, proposal, kept, transaction)

    def _compare(self, tried: _Tried, budget: int) -> Comparison:
        device = tried.trajectory.device

        def to_now() -> None:
            with self._ledger.part("restore", device):
                tried.transaction.restore()
            self._ledger.passes("restore", 1.0)

        with self._ledger.part("verify", device):
            spent = self._ledger.seconds["predict"] + self._ledger.seconds["restore"]
            found = compare(
                self._model,
                self._loss,
                self._draw,
                to_now=to_now,
                to_predicted=lambda: self._predict(tried),
                alpha=self._alpha,
                budget=budget,
                criterion=self._criterion,
            )
        found = self._voted(found)
        # Predicting and restoring lie inside the block and have been counted to their own parts.
        self._ledger.seconds["verify"] -= self._ledger.seconds["predict"] + self._ledger.seconds["restore"] - spent
        self._ledger.positions("verify", found.positions)
        return found

    def _voted(self, found: Comparison) -> Comparison:
        """Rank 0's verdict; all have judged by the same numbers, so it is everybody's."""
        if self._ranks.alone:
            return found
        accepted, decision = self._ranks.broadcast("verdict", (found.accepted, found.decision))
        return replace(found, accepted=accepted, decision=decision)

    def _predict(self, tried: _Tried) -> None:
        chosen, history = self._named(tried.proposal.predictor, tried.trajectory), tried.trajectory.history
        target = tried.transaction.target
        rounded = not exact_in(target, tried.trajectory.storage.dtype)
        with self._ledger.part("predict", tried.trajectory.device), self._charging(chosen, tried.trajectory):
            chosen.predict(history, tried.proposal.horizon, out=target)
            if rounded:
                _add_rest(target, tried.kept, history[-1].tensors)
            finite = all_finite(target, tried.trajectory.shards)
        self._ledger.passes("predict", copies(chosen.needs, history) + (2.0 if rounded else 0.0))
        self._ledger.positions("predict", network_tokens(chosen, history, self._parameters))
        if not finite:
            raise _NonFinite

    @contextmanager
    def _charging(self, chosen: Predictor, trajectory: Trajectory) -> Iterator[None]:
        """Charge what a predictor runs forward and backward to choose; one that declines in the end has run it too."""
        if not (chosen.needs.selection or chosen.needs.gradients):
            yield
            return
        drawn = self._drawn(trajectory)
        before = drawn.positions
        try:
            yield
        finally:
            self._ledger.positions("predict", drawn.positions - before)

    def _judged(self, found: Comparison, tried: _Tried) -> Attempt:
        if found.decision == "non-finite":
            return Attempt("nonfinite", "a held-out loss is not finite", found)
        if not found.accepted:
            return Attempt("rejected", _why(found), found)
        rate = self._rate(found, tried)
        self._predict(tried)
        if found.gain is None or rate is None or not rate > 0.0:
            return Attempt("accepted", _why(found), found)
        gained = found.gain / rate
        sure = found.lower / rate if found.lower is not None else None
        if self._criterion != "paired":
            sure = 0.5 * gained
        return Attempt("accepted", _why(found), found, gained, None if sure is None else max(0.0, sure))

    def _rate(self, found: Comparison, tried: _Tried) -> float | None:
        """Fall of the loss per real step since the snapshot before, on the same sequences."""
        history = tried.trajectory.history
        if len(history) < 2 or found.loss_now is None:
            return None
        before, now = history[-2], history[-1]
        copy_(tried.transaction.target, before.tensors)
        self._ledger.passes("restore", 1.0)
        return (self._mean(found.batches) - found.loss_now) / (now.step - before.step)

    def _mean(self, batches: Sequence[Any]) -> float:
        with self._ledger.part("verify"):
            loss = mean_loss_of(self._model, self._loss, batches)
        self._ledger.positions("verify", sum(positions_of(batch) for batch in batches))
        return loss


@torch.no_grad()
def _add_rest(out: Sequence[Tensor], exact: Sequence[Tensor], rounded: Sequence[Tensor]) -> None:
    """out = out + (theta_t - its rounded snapshot), so that a leap carries no rounding of the weights themselves.

    The difference of a number and its rounding is exact, so where `out` is the snapshot it becomes theta_t itself. The
    same holds of averages: the factors of their snapshots have the sum 1, and a run at rest stays where it is.
    """
    for target, now, snapshot in zip(out, exact, rounded, strict=True):
        for index in blocks(target.shape, block_size(target.device)):
            target[index].add_(now[index] - snapshot[index].to(now.device, now.dtype))


def _lacks(needs: Needs, history: History) -> str | None:
    if needs.gradients and history.shards is not None and history.shards.parts:
        return "needs gradients, which are not taken of weights that ranks hold in parts"
    return missing(needs, history)


def _why(found: Comparison) -> str:
    words = {
        "accepted": "the held-out loss is lower",
        "worse": "the held-out loss is higher",
        "open": "the held-out sequences do not tell",
    }.get(found.decision, found.decision)
    if found.decision == "accepted" and found.gain is not None and not found.gain > 0.0:
        words = "accepted whatever the loss"  # by a criterion that does not ask for a gain
    gain = "" if found.gain is None else f": {found.gain:+.3g} nats"
    return f"{words}{gain} (n = {found.sequences})"
