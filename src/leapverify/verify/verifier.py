"""The validator: held-out losses of the weights that a model holds, compared with those of the weights it held."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from leapverify.verify import criteria
from leapverify.verify.heldout import Heldout, LossFunction, open_heldout
from leapverify.verify.passes import Passes, Ran, fetch, forward
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


class Trial:
    """A prediction that stands trial: its losses on the fixed set, and the paired test as far as it has got.

    Args:
        verifier: its settings hold.
        now: the baseline.
        ran: what the fixed set gave under the predicted weights.
        sigma: margin of `adaptive`, nats per token.

    Raises:
        ValueError: sigma is no standard deviation, or the loss function gives another number of losses for a batch
            than it gave before.
    """

    def __init__(self, verifier: Verifier, now: Measured, ran: Ran, sigma: float) -> None:
        criteria.adaptive(0.0, 0.0, sigma)
        self._now, self._budget, self._epsilon, self._sigma = now, verifier.budget, verifier.epsilon, sigma
        self._test, self._fed = PairedTest(verifier.alpha), 0
        self._weights = now.tokens / now.tokens[: verifier.sequences].mean()
        self.loss, self.finite = _mean(ran, verifier.sequences), bool(torch.isfinite(ran.losses).all())
        self.passes, self.streams = len(ran.ends), ran.streams
        self._paired = self.finite and bool(torch.isfinite(now.losses).all())
        for begin, end in itertools.pairwise((0, *ran.ends)):
            if self.open:
                self._feed(ran.losses[begin:end])

    @property
    def open(self) -> bool:
        """Whether further batches could still decide the paired test."""
        undecided = self._paired and self.finite and self._test.decision is None
        return undecided and self._fed < len(self._now.ends)

    @property
    def next_batch(self) -> Any:
        """The batch that the test waits for while it is open."""
        return self._now.batches[self._fed]

    def take(self, ran: Ran) -> None:
        """Take what the next batch gave under the predicted weights."""
        self.passes, self.streams = self.passes + 1, ran.streams
        self._feed(ran.losses)

    def verdict(self, seconds: float) -> Verdict:
        """What all criteria say, with the time that the caller has measured."""
        now, finite, lower = self._now.loss, self.finite, self._test.bounds.lower
        return Verdict(
            loss=self.loss,
            finite=finite,
            strict=finite and criteria.strict(now, self.loss),
            adaptive=finite and criteria.adaptive(now, self.loss, self._sigma),
            proximity=finite and criteria.proximity(now, self.loss, self._epsilon),
            paired=finite and self._test.decision is Decision.ACCEPT,
            paired_lower=lower if finite and math.isfinite(lower) else None,
            paired_sequences=self._test.count,
            forward_passes=self.passes,
            seconds=seconds,
        )

    def _feed(self, losses: Float64[Tensor, " b"]) -> None:
        begin, end = (0, *self._now.ends)[self._fed : self._fed + 2]
        if min(begin + len(losses), self._budget) != end:
            raise ValueError(
                f"the loss function gave other numbers of losses ({begin + len(losses)} by batch {self._fed + 1}) than "
                f"for the baseline ({end}): return one loss for each sequence of a batch, whatever the weights"
            )
        losses = losses[: end - begin]
        self._fed += 1
        self.finite = bool(torch.isfinite(losses).all())
        if self.finite:
            self._test.update(((self._now.losses[begin:end] - losses) * self._weights[begin:end]).numpy())


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

    Example:
        >>> model = nn.Linear(2, 1)
        >>> _ = nn.init.constant_(model.weight, 1.0)
        >>> def loss(model, batch):
        ...     return model.weight.square().sum() + batch.square().mean(1)  # one loss a sequence
        >>> verifier = Verifier(model, [torch.ones(16, 2)] * 4, loss, sequences=16, budget=64)
        >>> now = verifier.measure()
        >>> _ = nn.init.constant_(model.weight, 0.5)  # the prediction
        >>> verdict = verifier.verify(now, sigma=0.0)
        >>> now.loss, verdict.loss, verdict.strict, verdict.paired
        (3.0, 1.5, True, True)
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
        ran = self._run(self._open(), self.budget)
        losses, tokens = ran.losses[: self.budget], ran.tokens[: self.budget]
        ends = tuple(min(end, self.budget) for end in ran.ends)
        loss = _mean(ran, self.sequences)
        return Measured(loss, losses, tokens, ran.batches, ends, time.perf_counter() - start)

    def loss_of(self) -> float:
        """Loss of the model's present weights over the fixed set only, token-weighted, nats per token."""
        return self.losses_of([self.send()])[0]

    def send(self) -> Passes:
        """Send the fixed set through the model as it is now, without waiting for what comes out."""
        return forward(self.model, self.loss, self._open(), self.sequences)

    def losses_of(self, sent: Sequence[Passes]) -> list[float]:
        """What `loss_of` would have returned at each `send`; one transfer for all of them."""
        found, _ = fetch(sent)
        for ran in found:
            self._check(ran)
        return [_mean(ran, self.sequences) for ran in found]

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
        (ran,), _ = fetch([self.run(now)])
        trial = self.judge(now, ran, sigma)
        while trial.open:
            self.go_on(trial)
        return trial.verdict(time.perf_counter() - start)

    def run(self, now: Measured) -> Passes:
        """Send the fixed set of a baseline through the weights that the model now holds; the host waits for nothing.

        The first third of `verify`, for a caller with many predictions to verify: run them all, `fetch` once, then
        `judge` each, and `go_on` with those that are still open, their weights in the model again.

        Args:
            now: what `measure` returned for theta_t.
        """
        return forward(self.model, self.loss, now.batches, self.sequences)

    def judge(self, now: Measured, ran: Ran, sigma: float) -> Trial:
        """Open the trial of a prediction with its losses on the fixed set; arguments and errors as of `verify`."""
        return Trial(self, now, ran, sigma)

    def go_on(self, trial: Trial) -> None:
        """Run the next batch of an open trial, whose predicted weights the model holds, and look at the test again."""
        (ran,), _ = fetch([forward(self.model, self.loss, [trial.next_batch], 1, trial.streams)])
        trial.take(ran)

    def _run(self, batches: Iterable[Any], wanted: int) -> Ran:
        """Forward batches until `wanted` sequences are covered; one transfer to the host, at the end."""
        (ran,), _ = fetch([forward(self.model, self.loss, batches, wanted)])
        self._check(ran)
        return ran

    def _check(self, ran: Ran) -> None:
        if ran.ends[-1] < self.sequences:
            raise ValueError(
                f"the held-out set gives {ran.ends[-1]} losses where sequences = {self.sequences} are asked for: give "
                "more held-out data or fewer sequences (a loss function that returns a scalar gives one loss a batch)"
            )
        if not float(ran.tokens[: self.sequences].sum()) > 0.0:
            raise ValueError(f"the first {self.sequences} held-out sequences count 0 tokens: give text, not padding")


def _mean(ran: Ran, sequences: int) -> float:
    """Token-weighted mean loss of the first sequences."""
    losses, tokens = ran.losses[:sequences], ran.tokens[:sequences]
    return float((losses * tokens).sum() / tokens.sum())
