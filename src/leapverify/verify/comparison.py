"""Two states of one model on the same fresh held-out batches, for as long as the answer is open.

The gain of sequence i is weighted by its share of tokens, so that the mean of the gains is L_t - L_hat:
g_i = (L_t,i - L_hat,i) n_i / mean(n). The paired test does not depend on the gains' scale, so while it runs mean(n) is
that of the first round; what is reported is scaled by that of all sequences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor, nn

from leapverify.core.batch_tree import tensors_in
from leapverify.core.undisturbed import undisturbed
from leapverify.verify.heldout import LossFunction, loss_rows
from leapverify.verify.sampling import Exhausted
from leapverify.verify.sequential import MINIMUM, Decision, PairedTest

CRITERIA = ("paired", "strict", "always", "never")
"""`paired`: the sequential test. The others decide after the first round: whether the mean gain is above 0, yes, no."""

WORDS = {Decision.ACCEPT: "accepted", Decision.REJECT: "worse", None: "open"}
NON_FINITE = "non-finite"


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What the held-out losses say of theta_hat against theta_t."""

    accepted: bool
    decision: str
    """accepted, worse, open (the budget or the held-out set is spent) or non-finite."""
    loss_now: float | None
    """L_t over the sequences used, token-weighted, nats per token; None where it is not finite or not measured."""
    loss_predicted: float | None
    """L_hat over the same sequences, nats per token; None where it is not finite or was not measured."""
    gain: float | None
    """L_t - L_hat, nats per token; None where one of them is."""
    lower: float | None
    """Lower confidence bound of the mean gain, nats per token; None where there is none."""
    sequences: int
    """Sequences used; batches where the loss function returns a scalar."""
    batches: tuple[Any, ...]
    """The batches used, so that other weights can be measured on the very same ones."""
    positions: int
    """Forward positions in all, of both states."""
    losses_now: Float64[Tensor, " n"]
    """L_t,i of each sequence, on the CPU."""
    tokens: Float64[Tensor, " n"]
    """Tokens that each loss stands for."""


def compare(
    model: nn.Module,
    loss: LossFunction,
    draw: Callable[[], Any],
    *,
    to_now: Callable[[], None],
    to_predicted: Callable[[], None],
    alpha: float = 0.05,
    budget: int = 256,
    criterion: str = "paired",
) -> Comparison:
    """Compare theta_hat with theta_t on fresh batches, in rounds, until the answer is clear or the budget is spent.

    The first round takes as many batches as give 16 gains, then come 1, 2, 4, ... batches more. Each round runs its
    batches under theta_t, then under theta_hat. No batch is drawn that would lead beyond the budget, but for those
    that the first round needs. Where `draw` raises `Exhausted`, the comparison ends as if the budget were spent; with
    fewer than 16 gains `paired` stays open without running theta_hat, and the other criteria decide by what there is.

    Args:
        model: holds theta_t; at the end it holds either, which the caller settles. Forward passes leave no trace.
        loss: (model, batch) -> scalar, (B,) or (losses, tokens), nats per token; with a scalar the batch is the unit.
        draw: gives a fresh batch; raises `Exhausted` rather than give one again.
        to_now: writes theta_t into the model.
        to_predicted: writes theta_hat into the model.
        alpha: rate of false accepts of `paired`.
        budget: most sequences to use.
        criterion: one of `CRITERIA`.

    Raises:
        ValueError: an unknown criterion, alpha or budget that make no sense, a loss function that returns nothing, a
            wrong shape, or another number of losses for the same batch.
    """
    require_criterion(criterion, budget)
    test, pairs, more = PairedTest(alpha), _Pairs(model, loss, draw), 1
    pairs.first(min(MINIMUM, budget))
    if pairs.finite and pairs.count < (MINIMUM if criterion == "paired" else 1):
        return pairs.result(WORDS[None], None)
    while pairs.finite:
        to_predicted()
        gains = pairs.gains()
        if not pairs.finite:
            break
        if criterion != "paired":
            accepted = criterion == "always" or (criterion == "strict" and pairs.gain > 0.0)
            return pairs.result("accepted" if accepted else "worse", None)
        decision = test.update(gains)
        room = (budget - test.count) // max(pairs.now.counts)
        fresh = pairs.drawn(min(more, room)) if decision is None else []
        if not fresh:
            return pairs.result(WORDS[decision], test.bounds.lower)
        to_now()
        pairs.add(fresh)
        more *= 2
    return pairs.result(NON_FINITE, None)


def require_criterion(criterion: str, budget: int) -> None:
    """Refuse what `compare` cannot decide by.

    Raises:
        ValueError: an unknown criterion, or a budget that never lets it decide.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion {criterion!r} is unknown: use {', '.join(CRITERIA)}")
    least = MINIMUM if criterion == "paired" else 1
    if budget < least:
        raise ValueError(f"a budget of {budget} sequences decides nothing by {criterion!r}: give at least {least}")


def positions_of(batch: Any) -> int:
    """Forward positions of a batch, the unit of forward-token costs.

    Args:
        batch: tensors in any nesting of tuples, lists, mappings and objects.

    Returns:
        b t for the first integer tensor of shape (b, t); without one, the rows of the first tensor that has any;
        without tensors 1.
    """
    rows = 0
    for tensor in tensors_in(batch):
        if tensor.ndim == 2 and not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool):
            return max(1, tensor.numel())
        rows = rows or (tensor.shape[0] if tensor.ndim else 0)
    return max(1, rows)


def mean_loss_of(model: nn.Module, loss: LossFunction, batches: Iterable[Any]) -> float:
    """Token-weighted mean loss of the weights that the model holds, nats per token; the model is left undisturbed.

    Raises:
        ValueError: no batches, no tokens, or a loss function that returns nothing or a wrong shape.
    """
    rows = losses_of(model, loss, list(batches))
    _require_tokens(rows)
    return rows.mean


class SequenceLosses(NamedTuple):
    """Losses of some batches, in order, on the host, and how many each batch gave."""

    losses: Float64[Tensor, " n"]
    tokens: Float64[Tensor, " n"]
    counts: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Token-weighted mean loss."""
        return _mean(self.losses, self.tokens)


NOTHING = SequenceLosses(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64), ())


class _Pairs:
    """The losses of both states so far."""

    def __init__(self, model: nn.Module, loss: LossFunction, draw: Callable[[], Any]) -> None:
        self.model, self.loss, self.draw = model, loss, draw
        self.batches: list[Any] = []
        self.now = self.predicted = NOTHING
        self.positions, self.scale = 0, 1.0

    @property
    def count(self) -> int:
        """Sequences so far."""
        return len(self.now.losses)

    @property
    def finite(self) -> bool:
        """Whether every loss so far is."""
        return bool(torch.isfinite(self.now.losses).all() and torch.isfinite(self.predicted.losses).all())

    @property
    def gain(self) -> float:
        """L_t - L_hat over all pairs."""
        return _mean(self.now.losses - self.predicted.losses, self.now.tokens)

    def first(self, sequences: int) -> None:
        """Losses of theta_t on as many batches as give so many sequences, or on all that there are."""
        while (missing := sequences - self.count) > 0:
            fresh = self.drawn(math.ceil(missing / max(self.now.counts, default=sequences)))
            if not fresh:
                break
            self.add(fresh)
        if self.batches:
            _require_tokens(self.now)
            self.scale = float(self.now.tokens.mean())

    def drawn(self, count: int) -> list[Any]:
        """So many fresh batches, or as many as there are; not to be called within `undisturbed`, which repeats them."""
        fresh: list[Any] = []
        with suppress(Exhausted):
            while len(fresh) < count:
                fresh.append(self.draw())
        return fresh

    def add(self, fresh: list[Any]) -> None:
        """Losses of theta_t on fresh batches."""
        self.now = self._run(self.now, fresh)
        self.batches += fresh

    def gains(self) -> NDArray[np.float64]:
        """Losses of theta_hat on the batches that it has not seen yet; returns their gains."""
        begin, done = len(self.predicted.losses), len(self.predicted.counts)
        self.predicted = self._run(self.predicted, self.batches[done:])
        found, expected = self.predicted.counts[done:], self.now.counts[done:]
        if found != expected:
            raise ValueError(
                f"the loss function gave {list(found)} losses for batches of which it gave {list(expected)} before: "
                "return one loss for each sequence of a batch, whatever the weights"
            )
        gains = (self.now.losses - self.predicted.losses) * self.now.tokens / self.scale
        return gains[begin:].numpy()

    def result(self, decision: str, lower: float | None) -> Comparison:
        """The comparison as it stands."""
        tokens = self.now.tokens
        sure = decision != NON_FINITE and len(self.predicted.losses) == self.count > 0
        known = self.count > 0 and bool(torch.isfinite(self.now.losses).all())
        if lower is not None:
            lower = lower * self.scale / float(tokens.mean()) if math.isfinite(lower) else None
        return Comparison(
            accepted=decision == WORDS[Decision.ACCEPT],
            decision=decision,
            loss_now=_mean(self.now.losses, tokens) if known else None,
            loss_predicted=_mean(self.predicted.losses, tokens) if sure else None,
            gain=self.gain if sure else None,
            lower=lower,
            sequences=self.count,
            batches=tuple(self.batches),
            positions=self.positions,
            losses_now=self.now.losses,
            tokens=tokens,
        )

    def _run(self, before: SequenceLosses, batches: list[Any]) -> SequenceLosses:
        rows = losses_of(self.model, self.loss, batches)
        self.positions += sum(positions_of(batch) for batch in batches)
        losses, tokens = torch.cat([before.losses, rows.losses]), torch.cat([before.tokens, rows.tokens])
        return SequenceLosses(losses, tokens, (*before.counts, *rows.counts))


def losses_of(model: nn.Module, loss: LossFunction, batches: Sequence[Any]) -> SequenceLosses:
    """Losses of some batches, at least one, with one transfer to the host; the model is left undisturbed.

    Raises:
        ValueError: no batches, or a loss function that returns nothing or a wrong shape.
    """
    if not batches:
        raise ValueError("no held-out batch was given (0 batches): give at least one")
    with undisturbed(model):
        rows = [loss_rows(loss(model, batch)) for batch in batches]
        losses, tokens = (torch.cat(parts).cpu().double() for parts in zip(*rows, strict=True))
    return SequenceLosses(losses, tokens, tuple(each.numel() for each, _ in rows))


def _require_tokens(rows: SequenceLosses) -> None:
    if not float(rows.tokens.sum()) > 0.0:
        raise ValueError(f"the first {len(rows.tokens)} held-out sequences count 0 tokens: give text, not padding")


def _mean(losses: Tensor, tokens: Tensor) -> float:
    return float((losses * tokens).sum() / tokens.sum())
