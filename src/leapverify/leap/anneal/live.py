"""Annealing in a live run: averages are kept while it goes on, and judged on held-out data when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from leapverify.leap.anneal.averages import AnnealMemory, AnnealStore, Candidate
from leapverify.leap.anneal.search import Annealed, anneal
from leapverify.leap.attempt import BatchSize
from leapverify.leap.ledger import Ledger
from leapverify.leap.live_weights import LiveWeights
from leapverify.verify.distributed import SharedLoss
from leapverify.verify.sequential import MINIMUM

SELECTION = 64
"""Held-out sequences on which the averages are compared."""
PICKED_FOR = 4
"""Looks over which the average that was picked is kept."""
AVERAGING_SHARE = 0.2
"""Of all that may be spent, keeping averages takes at most so much: where it does not suffice, states are left out."""
ANNEALING_SHARE = 0.5
"""Of all that may be spent, annealed losses take at most so much."""
UNBUDGETED = 0.05
"""Share of the run's time that they may take in a log where no budget was given."""


@dataclass(eq=False)
class LiveAnnealing:
    """Keeps the averages of one run and judges them on held-out data."""

    model: nn.Module
    weights: LiveWeights
    memory: AnnealMemory
    loss: SharedLoss
    draw: Callable[[], Any]
    """Gives a fresh held-out batch."""
    left: Callable[[], int | None]
    """Batches that may still be drawn now; None if unknown."""
    ledger: Ledger
    batch_size: BatchSize
    alpha: float
    """Rate of false accepts."""

    def __post_init__(self) -> None:
        self.store = self._make()
        self._picked: Candidate | None = None
        self._looks = 0

    def push(self, step: int) -> None:
        """Take the weights after a real step into the averages, if the budget covers it."""
        if not self.ledger.within("average", self.ledger.mean_cost("average", 0.0), AVERAGING_SHARE):
            return
        with self.ledger.part("average", self.weights.device):
            self.store.push(step, self.weights.tensors)
        self.ledger.passes("average", 1.0)

    def anneal(self, step: int, budget: int, again: Candidate | None = None) -> Annealed:
        """Pick, verify, and leave the run as it is.

        Args:
            step: real steps so far.
            budget: most held-out sequences of the verdict.
            again: the only average to consider, instead of all that are kept.
        """
        with self.ledger.part("anneal", self.weights.device):
            found = anneal(
                self.model,
                dict(zip(self.weights.parameters, self.weights.tensors, strict=True)),
                self.store,
                self.loss,
                self.draw,
                step=step,
                alpha=self.alpha,
                budget=budget,
                selection_sequences=SELECTION,
                candidates=None if again is None else [again],
                left=self.left(),
                shards=self.weights.shards,
                before_writes=self.weights.before_writes,
            )
        self.ledger.positions("anneal", found.positions)
        self.ledger.agree()
        return found

    def look(self, step: int) -> Annealed | None:
        """The annealed loss for the log, at less cost: the average is picked anew only now and then."""
        candidates = self.store.candidates()
        again = None if self._looks % PICKED_FOR == 0 else _like(self._picked, candidates)
        estimated = (len(candidates) + 1) * SELECTION * self.batch_size.per_sequence
        cost = self.ledger.mean_cost("anneal", estimated)
        if not candidates or not self.ledger.within("anneal", cost, ANNEALING_SHARE, UNBUDGETED):
            return None
        found = self.anneal(step, max(MINIMUM, self.batch_size.sequences), again)
        self._looks += 1
        if again is None:
            chosen = (found.window_steps, found.shape)
            self._picked = next((each for each in candidates if (each.window_steps, each.shape) == chosen), None)
        return found

    def restart(self, *, rebuild: bool) -> None:
        """Forget all averages: none may span a leap or a change of the model."""
        if rebuild:
            self.store = self._make()
        self.store.reset()

    def state_dict(self) -> dict[str, Any]:
        """Averages, and which of them was picked."""
        picked = None if self._picked is None else asdict(self._picked)
        return {"store": self.store.state_dict(), "picked": picked, "looks": self._looks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.store.load_state_dict(state["store"])
        self._picked = None if state["picked"] is None else Candidate(**state["picked"])
        self._looks = state["looks"]

    def _make(self) -> AnnealStore:
        pinned = self.memory.device == "cpu" and torch.cuda.is_available()
        return AnnealStore(self.weights.tensors, self.memory, pinned=pinned)


def _like(picked: Candidate | None, candidates: Sequence[Candidate]) -> Candidate | None:
    """The present candidate of the same kind, count, decay and shape."""
    if picked is None:
        return None
    key = (picked.kind, picked.count, picked.decay, picked.shape)
    return next((each for each in candidates if (each.kind, each.count, each.decay, each.shape) == key), None)
