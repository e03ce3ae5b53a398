"""One attempt at a leap, and what happens to the weights.

1. A `Transaction` (transaction.py) holds theta_t exactly.
2. The predictor writes theta_hat into the model, and both are compared on fresh held-out batches.
3. Refused, declined, not finite, or any exception: the transaction puts theta_t back, bit for bit.
4. Accepted: schedule and moments move on first (commit.py). Only if that worked on every rank does theta_hat stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from leapverify.core.weights import all_finite, block_size, blocks, copy_
from leapverify.errors import Declined
from leapverify.leap.ledger import Ledger, copies, network_tokens
from leapverify.leap.live_weights import LiveWeights
from leapverify.leap.policy.base import Proposal
from leapverify.leap.predictor_context import HeldoutSampler
from leapverify.leap.transaction import Transaction, exact_in, kept_values
from leapverify.predict import Needs, Predictor, missing, predictor
from leapverify.trajectory.history import History, OptimizerState
from leapverify.verify.comparison import Comparison, compare, mean_loss_of, positions_of
from leapverify.verify.distributed import SharedLoss
from leapverify.verify.sampling import Exhausted
from leapverify.verify.sequential import MINIMUM


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """How one attempt ended."""

    status: Literal["accepted", "rejected", "declined", "nonfinite"]
    reason: str
    comparison: Comparison | None = None
    steps_gained: float | None = None
    """Gain over the fall of the held-out loss in a real step of the last interval, on the same sequences."""
    steps_credit: float | None = None
    """What of it is sure enough to be reinvested: the lower bound of the gain over the same fall, at least 0. Half of
    `steps_gained` where the criterion has no bound; None where that fall is not above 0."""


class _NonFinite(Exception):
    """A predicted weight is NaN or infinite."""


class BatchSize(NamedTuple):
    """A held-out batch, on all ranks together; measured once before the run."""

    sequences: int
    positions: int
    """Forward positions."""

    @property
    def per_sequence(self) -> float:
        """Forward positions of one sequence."""
        return self.positions / self.sequences


@dataclass(eq=False)
class Attempter:
    """Makes attempts on one model."""

    model: nn.Module
    weights: LiveWeights
    """Their newest snapshot is theta_t."""
    loss: SharedLoss
    draw: Callable[[], Any]
    """Gives a fresh held-out batch; raises `Exhausted` rather than give one again."""
    ledger: Ledger
    """Counts what attempts cost."""
    batch_size: BatchSize
    optimizer_state: Callable[[int], OptimizerState | None]
    """Adam's state with the rates of the coming K steps, for predictors that read it."""
    alpha: float
    """Rate of false accepts of one attempt."""
    sequences: int
    """Most held-out sequences of one attempt."""
    criterion: str
    """One of verify.comparison.CRITERIA."""
    _predictors: dict[str, Predictor] = field(default_factory=dict)

    def attempt(self, proposal: Proposal, commit: Callable[[Attempt], bool]) -> Attempt:
        """Try one proposal; the weights are theta_t again afterwards, unless it is accepted and `commit` agrees.

        Args:
            proposal: predictor and K.
            commit: called with an accepted attempt while the model holds theta_hat; carries along what belongs to a
                leap and says whether theta_hat stays. An exception from it puts theta_t back.
        """
        lacks = self._lacks(proposal)
        if lacks is not None:
            return Attempt("declined", lacks)
        budget = max(MINIMUM, self.affordable())
        with self._transaction() as transaction:
            try:
                attempt = self._judged(self._compare(proposal, transaction, budget), proposal, transaction)
            except Declined as error:
                return Attempt("declined", error.reason)
            except _NonFinite:
                return Attempt("nonfinite", f"{proposal.predictor} gave weights that are not finite")
            if attempt.status == "accepted" and commit(attempt):
                transaction.commit()
            return attempt

    def probe(self) -> Callable[[Proposal], float | None]:
        """A function that gives the held-out gain of proposals, all on one selection batch drawn at the first call.

        It gives None where a predictor declines, a loss is not finite, or no fresh batch is left.
        """
        batches: list[Any] = []
        now: list[float] = []

        def gain(proposal: Proposal) -> float | None:
            if _lacks(self._predictor(proposal.predictor).needs, self.weights.history) is not None:
                return None
            if not batches:
                try:
                    batches.append(self.draw())
                except Exhausted:
                    return None
                now.append(self.mean_loss(batches))
            self._read_optimizer(proposal)
            with self._transaction() as transaction:
                try:
                    self._predict(proposal, transaction)
                except (Declined, _NonFinite):
                    return None
                found = now[0] - self.mean_loss(batches)
            self.ledger.passes("restore", 1.0)
            return found if abs(found) < float("inf") else None

        return gain

    def affordable(self) -> int:
        """Most held-out sequences of an attempt that the budget pays for now: each is run under both states."""
        self.ledger.agree()
        allowance = self.ledger.allowance
        cost = 2.0 * self.ledger.cost_of_positions(self.batch_size.per_sequence)
        if allowance == float("inf") or cost <= 0.0:
            return self.sequences
        return max(0, min(self.sequences, int(allowance / cost)))

    def lacking(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of some predictors that would decline now for want of something other than snapshots."""
        history = self.weights.history
        needs = {name: self._predictor(name).needs for name in names}
        return tuple(name for name, each in needs.items() if each.snapshots <= len(history) and _lacks(each, history))

    def mean_loss(self, batches: Sequence[Any]) -> float:
        """Held-out loss of the present weights on given batches, nats per token."""
        with self.ledger.part("verify"):
            loss = mean_loss_of(self.model, self.loss, batches)
        self.ledger.positions("verify", sum(positions_of(batch) for batch in batches))
        return loss

    @cached_property
    def _elements(self) -> int:
        """Numbers in all of the model's parameters, frozen ones too."""
        return sum(each.numel() for each in self.model.parameters())

    # What a predictor is given

    def _predictor(self, name: str) -> Predictor:
        """The predictor of a name, with the history given what it draws held-out data from."""
        if name not in self._predictors:
            self._predictors[name] = predictor(name)  # made once: it may have a file to read
        chosen, history = self._predictors[name], self.weights.history
        if chosen.needs.selection or chosen.needs.gradients:
            history.selection = history.gradients = self._sampler()
        return chosen

    def _sampler(self) -> HeldoutSampler:
        """The same one until the next checkpoint."""
        return self.weights.history.derived(
            "leap drawn", lambda: HeldoutSampler(self.model, self.weights.tensors, self.loss, self.draw)
        )

    def _read_optimizer(self, proposal: Proposal) -> None:
        reads = self._predictor(proposal.predictor).needs.optimizer_state
        self.weights.history.optimizer = self.optimizer_state(proposal.horizon) if reads else None

    def _lacks(self, proposal: Proposal) -> str | None:
        """What a proposal's predictor has not, in words; None if it may predict."""
        needs, history = self._predictor(proposal.predictor).needs, self.weights.history
        lacks = _lacks(needs, history)
        if lacks is not None:
            return lacks
        self._read_optimizer(proposal)
        if needs.optimizer_state and (history.optimizer is None or not history.optimizer.m):
            return "needs Adam's moments of all moved weights, the optimizer has none"
        return None

    # Predict, compare, judge

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        weights = self.weights
        if not exact_in(weights.tensors, weights.storage.dtype):
            self.ledger.passes("snapshot", 1.0)
        kept = kept_values(weights.tensors, weights.history, weights.storage.dtype)
        with Transaction(weights.tensors, kept, weights.before_writes) as transaction:
            yield transaction

    def _predict(self, proposal: Proposal, transaction: Transaction) -> None:
        chosen, history, target = self._predictor(proposal.predictor), self.weights.history, transaction.target
        rounded = not exact_in(target, self.weights.storage.dtype)
        with self.ledger.part("predict", self.weights.device), self._charging(chosen):
            chosen.predict(history, proposal.horizon, out=target)
            if rounded:
                _add_rest(target, transaction.kept, history[-1].tensors)
            finite = all_finite(target, self.weights.shards)
        self.ledger.passes("predict", copies(chosen.needs, history) + (2.0 if rounded else 0.0))
        self.ledger.positions("predict", network_tokens(chosen, history, self._elements))
        if not finite:
            raise _NonFinite

    @contextmanager
    def _charging(self, chosen: Predictor) -> Iterator[None]:
        """Charge what a predictor runs forward and backward to choose; one that declines in the end has run it too."""
        if not (chosen.needs.selection or chosen.needs.gradients):
            yield
            return
        sampler = self._sampler()
        before = sampler.positions
        try:
            yield
        finally:
            self.ledger.positions("predict", sampler.positions - before)

    def _compare(self, proposal: Proposal, transaction: Transaction, budget: int) -> Comparison:
        device, seconds = self.weights.device, self.ledger.seconds

        def to_now() -> None:
            with self.ledger.part("restore", device):
                transaction.restore()
            self.ledger.passes("restore", 1.0)

        with self.ledger.part("verify", device):
            spent = seconds["predict"] + seconds["restore"]
            found = compare(
                self.model,
                self.loss,
                self.draw,
                to_now=to_now,
                to_predicted=lambda: self._predict(proposal, transaction),
                alpha=self.alpha,
                budget=budget,
                criterion=self.criterion,
            )
        ranks = self.ledger.ranks
        if not ranks.alone:  # all have judged by the same numbers; rank 0's verdict is everybody's
            accepted, decision = ranks.broadcast("verdict", (found.accepted, found.decision))
            found = replace(found, accepted=accepted, decision=decision)
        # Predicting and restoring lie inside the block and have been counted to their own parts.
        seconds["verify"] -= seconds["predict"] + seconds["restore"] - spent
        self.ledger.positions("verify", found.positions)
        return found

    def _judged(self, found: Comparison, proposal: Proposal, transaction: Transaction) -> Attempt:
        """What a comparison comes to; the model holds theta_hat afterwards if it was accepted."""
        if found.decision == "non-finite":
            return Attempt("nonfinite", "a held-out loss is not finite", found)
        if not found.accepted:
            return Attempt("rejected", _why(found), found)
        rate = self._rate(found, transaction)
        self._predict(proposal, transaction)
        if found.gain is None or rate is None or not rate > 0.0:
            return Attempt("accepted", _why(found), found)
        gained = found.gain / rate
        sure = found.lower / rate if found.lower is not None else None
        if self.criterion != "paired":
            sure = 0.5 * gained
        return Attempt("accepted", _why(found), found, gained, None if sure is None else max(0.0, sure))

    def _rate(self, found: Comparison, transaction: Transaction) -> float | None:
        """Fall of the loss per real step since the snapshot before, on the same sequences."""
        history = self.weights.history
        if len(history) < 2 or found.loss_now is None:
            return None
        before, now = history[-2], history[-1]
        copy_(transaction.target, before.tensors)
        self.ledger.passes("restore", 1.0)
        return (self.mean_loss(found.batches) - found.loss_now) / (now.step - before.step)


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
