"""The validator: held-out losses of the weights that a model holds, compared with those of the weights it held."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from leapverify.undisturbed import undisturbed
from leapverify.verify import criteria
from leapverify.verify.heldout import Heldout, LossFunction, open_heldout, sequence_rows
from leapverify.verify.sequential import Decision, PairedTest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Held-out losses of theta_t: the baseline of every prediction that is made from there."""

    loss: float
    """L_t over the fixed set, token-weighted, nats per token."""
    losses: Float64[Tensor, " n"]
    """Of each sequence (or batch, for a batch-scalar loss) of the whole budget, in order, on the CPU."""
    tokens: Float64[Tensor, " n"]
    """Tokens that each of the losses stands for."""
    batches: tuple[Any, ...]
    """The batches themselves, so that a prediction is measured on the very same ones."""
    ends: tuple[int, ...]
    """Number of sequences up to the end of each batch."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the validator says of one prediction."""

    loss: float
    """L_hat over the fixed set, nats per token."""
    finite: bool
    """Whether every loss that was looked at is finite; if not, every criterion is False."""
    strict: bool
    adaptive: bool
    proximity: bool
    paired: bool
    paired_lower: float | None
    """Lower confidence bound of the mean paired gain when the test stopped, nats per token; None without one."""
    paired_sequences: int
    """Sequences that the paired test looked at."""
    forward_passes: int
    """Batches that were run through the model."""
    seconds: float


class _Ran(NamedTuple):
    """What a number of forward passes gave."""

    losses: Float64[Tensor, " n"]
    tokens: Float64[Tensor, " n"]
    batches: tuple[Any, ...]
    ends: tuple[int, ...]


class Verifier:
    """Measures held-out losses without disturbing the model, and judges predicted weights by every criterion.

    Args:
        model: holds the weights that are measured.
        heldout: batches of whatever the loss function takes, or a function that returns them anew (fresh ones,
            say); it is then called once a baseline, and predictions from there see the batches of that baseline.
        loss: (model, batch) -> scalar, (B,) or (losses, tokens), nats per token. With a scalar the batch is the
            unit that is counted and paired.
        sequences: number of sequences (the first ones) over which losses are reported.
        budget: most sequences that the paired test may look at; at least `sequences`.
        epsilon: of `proximity`.
        alpha: false-accept rate of `paired`.

    Raises:
        ValueError: sequences, budget, epsilon or alpha make no sense, or the held-out set is empty.
    """

    def __init__(
        self,
        model: nn.Module,
        heldout: Heldout,
        loss: LossFunction,
        *,
        sequences: int,
        budget: int,
        epsilon: float = 0.05,
        alpha: float = 0.05,
    ) -> None:
        if sequences < 1:
            raise ValueError(f"sequences = {sequences} leave nothing to measure: give at least 1")
        if budget < sequences:
            raise ValueError(
                f"budget = {budget} is below sequences = {sequences}: give a budget of at least {sequences}"
            )
        criteria.proximity(1.0, 1.0, epsilon)
        PairedTest(alpha)
        self.model, self.loss = model, loss
        self.sequences, self.budget, self.epsilon, self.alpha = sequences, budget, epsilon, alpha
        self._open = open_heldout(heldout)

    def measure(self) -> Measured:
        """Losses of the model's present weights on the whole budget, the baseline of `verify`.

        Raises:
            ValueError: the held-out set has fewer sequences than the losses are reported over, or counts no token.
        """
        start = time.perf_counter()
        with undisturbed(self.model):
            ran = self._forward(self._open(), self.budget)
        self._check(ran)
        losses, tokens = ran.losses[: self.budget], ran.tokens[: self.budget]
        ends = tuple(min(end, self.budget) for end in ran.ends)
        return Measured(self._mean(ran), losses, tokens, ran.batches, ends, time.perf_counter() - start)

    def loss_of(self) -> float:
        """Loss of the model's present weights over the fixed set only, token-weighted, nats per token."""
        with undisturbed(self.model):
            ran = self._forward(self._open(), self.sequences)
        self._check(ran)
        return self._mean(ran)

    def verify(self, now: Measured, sigma: float) -> Verdict:
        """Judge the weights that the model now holds against the baseline.

        The fixed set is run whole; after it the paired test goes on, batch by batch, only while it is open and
        within the budget. The paired gain of a sequence is weighted by its share of tokens, so that its mean is
        L_t - L_hat:  g_i = (L_t,i - L_hat,i) n_i / mean(n).

        Args:
            now: what `measure` returned for theta_t.
            sigma: margin of `adaptive`, nats per token (see `recent_sigma`).

        Raises:
            ValueError: sigma is no standard deviation, or the loss function gives another number of losses for a
                batch than it gave before.
        """
        start = time.perf_counter()
        criteria.adaptive(0.0, 0.0, sigma)
        with undisturbed(self.model):
            ran = self._forward(now.batches, self.sequences)
            loss, passes = self._mean(ran), len(ran.ends)
            test, finite = PairedTest(self.alpha), bool(torch.isfinite(ran.losses).all())
            if finite and bool(torch.isfinite(now.losses).all()):
                passes, finite = self._pair(test, now, ran)
        lower = test.bounds.lower
        return Verdict(
            loss=loss,
            finite=finite,
            strict=finite and criteria.strict(now.loss, loss),
            adaptive=finite and criteria.adaptive(now.loss, loss, sigma),
            proximity=finite and criteria.proximity(now.loss, loss, self.epsilon),
            paired=finite and test.decision is Decision.ACCEPT,
            paired_lower=lower if finite and math.isfinite(lower) else None,
            paired_sequences=test.count,
            forward_passes=passes,
            seconds=time.perf_counter() - start,
        )

    def _pair(self, test: PairedTest, now: Measured, ran: _Ran) -> tuple[int, bool]:
        """Feed the test, first with what has been run; returns the forward passes in all, and whether all is finite."""
        weights = now.tokens / now.tokens[: self.sequences].mean()
        for index, (begin, end) in enumerate(itertools.pairwise((0, *now.ends))):
            if index >= len(ran.ends):
                more = self._forward(now.batches[index : index + 1], 1)
                ran = _Ran(
                    torch.cat([ran.losses, more.losses]), ran.tokens, ran.batches, (*ran.ends, begin + more.ends[0])
                )
            if min(ran.ends[index], self.budget) != end:
                raise ValueError(
                    f"the loss function gave other numbers of losses ({ran.ends[index]} by batch {index + 1}) than for "
                    f"the baseline ({end}): return one loss for each sequence of a batch, whatever the weights"
                )
            losses = ran.losses[begin:end]
            if not bool(torch.isfinite(losses).all()):
                return len(ran.ends), False
            if test.update(((now.losses[begin:end] - losses) * weights[begin:end]).numpy()) is not None:
                break
        return len(ran.ends), True

    def _forward(self, batches: Iterable[Any], wanted: int) -> _Ran:
        """Forward batches until `wanted` sequences are covered; one transfer to the host, at the end."""
        rows: list[tuple[Tensor, Tensor]] = []
        used: list[Any] = []
        ends: list[int] = []
        for batch in batches:
            rows.append(sequence_rows(self.loss(self.model, batch)))
            used.append(batch)
            ends.append((ends[-1] if ends else 0) + rows[-1][0].numel())
            if ends[-1] >= wanted:
                break
        if not rows:
            raise ValueError("the held-out set is empty (0 batches): give at least one batch")
        losses, tokens = (torch.cat(parts).cpu().double() for parts in zip(*rows, strict=True))
        return _Ran(losses, tokens, tuple(used), tuple(ends))

    def _check(self, ran: _Ran) -> None:
        if ran.ends[-1] < self.sequences:
            raise ValueError(
                f"the held-out set gives {ran.ends[-1]} losses where sequences = {self.sequences} are asked for: give "
                "more held-out data or fewer sequences (a loss function that returns a scalar gives one loss a batch)"
            )
        if not float(ran.tokens[: self.sequences].sum()) > 0.0:
            raise ValueError(f"the first {self.sequences} held-out sequences count 0 tokens: give text, not padding")

    def _mean(self, ran: _Ran) -> float:
        losses, tokens = ran.losses[: self.sequences], ran.tokens[: self.sequences]
        return float((losses * tokens).sum() / tokens.sum())
