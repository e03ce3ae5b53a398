"""Annealing: the average of past weights that stands for a decay of the learning rate, picked and verified.

Every average that the store can give is tried on the same selection batches. The best is then compared with the present
weights on further batches. Its loss on the selection batches is biased, because it was picked by it, and never
reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from leapverify.core.shards import Shards
from leapverify.core.weights import all_finite
from leapverify.leap.anneal.averages import AnnealStore, Candidate
from leapverify.leap.transaction import Transaction
from leapverify.verify.comparison import Comparison, compare, losses_of, positions_of
from leapverify.verify.heldout import LossFunction
from leapverify.verify.sampling import Exhausted
from leapverify.verify.sequential import MINIMUM

PLAIN = ("linear", "exponential")
"""Shapes at which the windows are compared."""
SELECTION_BATCHES = 16
"""Most batches to pick by, for a loss function that gives one number a batch."""


@dataclass(frozen=True, slots=True, eq=False)
class Annealed:
    """The annealed weights at one step, or the raw ones where no average is shown to be better."""

    step: int
    """Optimizer steps taken."""
    accepted: bool
    """Whether the average is better on held-out data that it was not picked by."""
    loss: float | None
    """Held-out loss of `weights`, nats per token; that of the raw weights where not accepted."""
    raw_loss: float | None
    """Held-out loss of the raw weights on the same sequences; None where it was not measured or is not finite."""
    gain: float | None
    """raw_loss less the loss of the average, whether accepted or not; None where it was not verified."""
    lower: float | None
    """Lower confidence bound of the gain."""
    window_steps: int | None
    """Steps of the decay that the average stands for; None where none was tried."""
    shape: str | None
    """linear | cosine | sqrt | exponential."""
    snapshots: int
    """Weights that went into the average; 0 where none was tried."""
    sequences: int
    """Held-out sequences that the losses rest on."""
    positions: int
    """Forward positions in all, picking included, on this rank."""
    reason: str
    weights: dict[str, Tensor]
    """Copies by name, float32 (float64 of float64 parameters); DTensors where the parameters are some."""


class _Picked(NamedTuple):
    """How the candidates did on the selection batches."""

    best: Candidate | None
    """None where none lowers the loss."""
    raw_loss: float
    sequences: int
    positions: int
    reason: str


def anneal(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    store: AnnealStore,
    loss: LossFunction,
    draw: Callable[[], Any],
    *,
    step: int,
    alpha: float = 0.05,
    budget: int = 256,
    selection_sequences: int = 64,
    candidates: Sequence[Candidate] | None = None,
    left: int | None = None,
    shards: Shards | None = None,
    before_writes: Callable[[], None] = lambda: None,
) -> Annealed:
    """Pick the window and shape with the lowest held-out loss, and verify it against the raw weights on other batches.

    The model holds its own weights again afterwards, bit for bit, however it ends.

    Args:
        model: holds the raw weights.
        parameters: those that the store was made for, in its order, by name; of spread ones the local parts.
        store: past weights.
        loss: (model, batch) -> scalar, (B,) or (losses, tokens), nats per token.
        draw: gives a fresh held-out batch; raises `Exhausted` rather than give one again.
        step: optimizer steps taken.
        alpha: rate of false accepts.
        budget: most sequences of the verification.
        selection_sequences: sequences to pick by; at most 16 batches.
        candidates: some of `store.candidates()`, to spend less; None for all.
        left: batches that `draw` still gives, where that is known: at most half of them are picked by, and no more
            than leaves the verification enough to decide.
        shards: how the parameters are spread over ranks, which then all call this, with a loss of all shares.
        before_writes: called before weights are written.

    Raises:
        ValueError: the loss function gives no losses, or there are no sequences to pick by.
    """
    if selection_sequences < 1:
        raise ValueError(f"selection_sequences = {selection_sequences} leave nothing to pick by: give at least 1")
    tensors = list(parameters.values())
    device = store.memory.device
    kept = [each.detach().to(device or each.device, copy=True) for each in tensors]
    trials = store.candidates() if candidates is None else list(candidates)
    found: Comparison | None = None
    with Transaction(tensors, kept, before_writes) as transaction:
        picked = _pick(
            transaction, store, trials, lambda: _Selection(model, loss, draw, selection_sequences, left), shards
        )
        if picked.best is not None:
            best = picked.best
            transaction.restore()
            found = compare(
                model,
                loss,
                draw,
                to_now=transaction.restore,
                to_predicted=lambda: store.write(best, transaction.target),
                alpha=alpha,
                budget=budget,
            )
    return _annealed(step, picked, found, _weights(parameters, picked.best, found, store, kept))


def _pick(
    transaction: Transaction,
    store: AnnealStore,
    trials: Sequence[Candidate],
    select: Callable[[], _Selection],
    shards: Shards | None,
) -> _Picked:
    """The candidate with the lowest token-weighted mean loss, if it lies below that of the raw weights."""
    if not trials:
        text = f"{store.held} snapshots are held and no running average: go on until there are at least 2"
        return _Picked(None, math.nan, 0, 0, text)
    try:
        selection = select()
    except Exhausted:
        return _Picked(None, math.nan, 0, 0, "too few held-out batches are left to pick by some and verify on others")
    raw = selection.measure()

    def picked(reason: str, best: Candidate | None = None) -> _Picked:
        return _Picked(best, raw, selection.count, selection.positions, reason)

    if not math.isfinite(raw):
        return picked(f"the held-out loss of the raw weights is {raw}")
    losses: dict[Candidate, float] = {}

    def measure(some: Sequence[Candidate]) -> None:
        for trial in some:
            store.write(trial, transaction.target)
            if all_finite(transaction.target, shards) and math.isfinite(value := selection.measure()):
                losses[trial] = value

    # The window first, at one shape, then the shape at that window: it matters less, and this takes half the passes.
    first = [trial for trial in trials if trial.shape in PLAIN] or trials
    measure(first)
    if losses:
        window = min(losses, key=losses.__getitem__)
        measure([trial for trial in trials if trial not in first and trial.count == window.count])
    if not losses:
        return picked(f"none of {len(first)} averages has a finite held-out loss")
    best = min(losses, key=losses.__getitem__)
    if losses[best] < raw:
        return picked("", best)
    return picked(
        f"none of {len(losses)} averages lowers the held-out loss: {raw:.4f} raw, {losses[best]:.4f} with "
        f"{_named(best)} (n = {selection.count})"
    )


class _Selection:
    """The batches that candidates are picked by, the same for all.

    Raises:
        Exhausted: none would be left to verify on.
    """

    def __init__(
        self, model: nn.Module, loss: LossFunction, draw: Callable[[], Any], sequences: int, left: int | None
    ) -> None:
        if left is not None and left < 2:
            raise Exhausted
        self._model, self._loss = model, loss
        self._batches = [draw()]
        self.count = self.positions = 0
        self.measure()
        wanted = min(math.ceil(sequences / self.count), SELECTION_BATCHES)
        if left is not None:
            wanted = min(wanted, left // 2, left - math.ceil(MINIMUM / self.count))
        with suppress(Exhausted):
            while len(self._batches) < wanted:
                self._batches.append(draw())

    def measure(self) -> float:
        """Token-weighted mean loss of the weights that the model holds; one transfer to the host."""
        rows = losses_of(self._model, self._loss, self._batches)
        self.count = len(rows.losses)
        self.positions += sum(positions_of(batch) for batch in self._batches)
        return rows.mean


def _annealed(step: int, picked: _Picked, found: Comparison | None, weights: dict[str, Tensor]) -> Annealed:
    best = picked.best
    if best is None or found is None:
        raw = picked.raw_loss if math.isfinite(picked.raw_loss) else None
        return Annealed(
            step, False, raw, raw, None, None, None, None, 0, picked.sequences, picked.positions, picked.reason, weights
        )
    return Annealed(
        step=step,
        accepted=found.accepted,
        loss=found.loss_predicted if found.accepted else found.loss_now,
        raw_loss=found.loss_now,
        gain=found.gain,
        lower=found.lower,
        window_steps=best.window_steps,
        shape=best.shape,
        snapshots=best.count,
        sequences=found.sequences,
        positions=picked.positions + found.positions,
        reason=_why(best, found),
        weights=weights,
    )


def _why(best: Candidate, found: Comparison) -> str:
    verdict = {
        "accepted": "lowers the held-out loss",
        "worse": "does not lower the held-out loss on batches that it was not picked by",
        "open": "may lower the held-out loss, but the budget or the held-out set does not suffice to tell",
    }.get(found.decision, "has a held-out loss that is not finite")
    gain = "" if found.gain is None else f": gain {found.gain:+.3g} nats"
    return f"{_named(best)} {verdict}{gain} (n = {found.sequences})"


def _named(candidate: Candidate) -> str:
    if candidate.kind == "ema":
        return f"the EMA of decay {candidate.decay}"
    return f"the {candidate.shape} decay over {candidate.window_steps} steps ({candidate.count} snapshots)"


def _weights(
    parameters: Mapping[str, Tensor],
    best: Candidate | None,
    found: Comparison | None,
    store: AnnealStore,
    kept: Sequence[Tensor],
) -> dict[str, Tensor]:
    """The average that was accepted, or the raw weights, in tensors of their own."""
    types = [torch.promote_types(each.dtype, torch.float32) for each in parameters.values()]
    if best is None or found is None or not found.accepted:
        return {name: each.to(kind) for name, each, kind in zip(parameters, kept, types, strict=True)}
    out = [torch.empty_like(each, dtype=kind) for each, kind in zip(kept, types, strict=True)]
    store.write(best, out)
    return dict(zip(parameters, out, strict=True))
