"""The leap over the decay inside the engine: averages kept while the run goes on, asked for when wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from leapverify.leap.anneal.averages import AnnealMemory, AnnealStore, Candidate
from leapverify.leap.anneal.search import Annealed, anneal
from leapverify.leap.attempt import Unit
from leapverify.leap.ledger import Ledger
from leapverify.leap.parameters import Trajectory
from leapverify.verify.heldout import LossFunction
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


class Annealing:
    """Keeps the averages of one run and judges them on held-out data.

    Args:
        model: the model.
        trajectory: its weights.
        memory: which averages are kept, and where.
        pinned: whether averages in host memory lie page-locked.
        loss: (model, batch) -> losses.
        draw: gives a fresh held-out batch.
        left: batches that may still be drawn now; None if unknown.
        ledger: counts what it costs.
        alpha: rate of false accepts.
        unit: what a held-out sequence costs.
    """

    def __init__(
        self,
        model: nn.Module,
        trajectory: Trajectory,
        memory: AnnealMemory,
        *,
        pinned: bool,
        loss: LossFunction,
        draw: Callable[[], Any],
        left: Callable[[], int | None],
        ledger: Ledger,
        alpha: float,
        unit: Unit,
    ) -> None:
        self._model, self._trajectory, self._ledger = model, trajectory, ledger
        self.memory, self._pinned = memory, pinned
        self._loss, self._draw, self._left = loss, draw, left
        self._alpha, self._unit = alpha, unit
        self.store = self._make()
        self._picked: Candidate | None = None
        self._looks = 0

    def push(self, step: int) -> None:
        """Take the weights after a real step into the averages, if the budget covers it."""
        if not self._ledger.within("average", self._ledger.mean_cost("average", 0.0), AVERAGING_SHARE):
            return
        with self._ledger.part("average", self._trajectory.device):
            self.store.push(step, self._trajectory.tensors)
        self._ledger.passes("average", 1.0)

    def anneal(self, step: int, budget: int, again: Candidate | None = None) -> Annealed:
        """Pick, verify, and leave the run as it is.

        Args:
            step: real steps so far.
            budget: most held-out sequences of the verdict.
            again: the only average to consider, instead of all that are kept.
        """
        with self._ledger.part("anneal", self._trajectory.device):
            found = anneal(
                self._model,
                dict(zip(self._trajectory.parameters, self._trajectory.tensors, strict=True)),
                self.store,
                self._loss,
                self._draw,
                keep=None,
                step=step,
                alpha=self._alpha,
                budget=budget,
                selection_sequences=SELECTION,
                candidates=None if again is None else [again],
                left=self._left(),
                shards=self._trajectory.shards,
                before_writes=self._trajectory.before_writes,
            )
        self._ledger.positions("anneal", found.positions)
        self._ledger.agree()
        return found

    def look(self, step: int) -> Annealed | None:
        """The annealed loss for the log, at less cost: the average is picked anew only now and then."""
        candidates = self.store.candidates()
        again = None if self._looks % PICKED_FOR == 0 else _like(self._picked, candidates)
        foretold = (len(candidates) + 1) * SELECTION * self._unit.per_sequence
        cost = self._ledger.mean_cost("anneal", foretold)
        if not candidates or not self._ledger.within("anneal", cost, ANNEALING_SHARE, UNBUDGETED):
            return None
        found = self.anneal(step, max(MINIMUM, self._unit.sequences), again)
        self._looks += 1
        if again is None:
            chosen = (found.window_steps, found.shape)
            self._picked = next((each for each in candidates if (each.window_steps, each.shape) == chosen), None)
        return found

    def begin_anew(self, *, rebuild: bool) -> None:
        """No average reaches across a leap, or a change of the model."""
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
        return AnnealStore(self._trajectory.tensors, self.memory, pinned=self._pinned)


def _like(picked: Candidate | None, candidates: Sequence[Candidate]) -> Candidate | None:
    """The present candidate of the same kind, count, decay and shape."""
    if picked is None:
        return None
    key = (picked.kind, picked.count, picked.decay, picked.shape)
    return next((each for each in candidates if (each.kind, each.count, each.decay, each.shape) == key), None)
