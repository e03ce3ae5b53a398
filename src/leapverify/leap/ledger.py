"""What the engine costs: seconds and forward tokens of each of its parts, and what the budget leaves."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch

from leapverify.core.ranks import Ranks
from leapverify.predict import Needs, Predictor
from leapverify.trajectory.history import History

Clock = Literal["wall", "tokens"]
PARTS = (
    "snapshot", "recent", "finite", "observe", "straightness", "watch", "predict", "verify", "restore", "average",
    "anneal", "schedule", "log", "other",
)  # fmt: skip
PASS_TOKENS = 8.0
"""A copy of all weights counts as so many forward tokens: 8 bytes for each weight against 2 operations for each weight
and token, on a CPU that computes two operations for each byte that it moves. On an accelerator it is several hundred,
which only the clock `wall` knows."""
INTERVALS = 16
"""Intervals over which the time of a training step is taken."""
REINVESTED = 0.5
"""Share of the time that leaps have saved that may be spent on further attempts."""


class Ledger:
    """Counts costs in seconds and in forward-token equivalents, and rules on one of the two.

    A forward pass of n positions costs n tokens, a training step three times its positions. On several ranks each
    counts for itself until a decision is near: then all take over rank 0's seconds and the positions of all shares.

    Args:
        clock: `wall` rules on seconds; `tokens` on tokens, so that decisions repeat exactly on any machine.
        budget: share of the run's time that may be spent; None for no limit.
        step_tokens: tokens of one training step, on all ranks; needed for the clock `tokens`.
        ranks: of the run.
    """

    def __init__(
        self, clock: Clock, budget: float | None, step_tokens: float | None, ranks: Ranks | None = None
    ) -> None:
        self.clock, self.budget, self.step_tokens = clock, budget, step_tokens
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.tokens = dict.fromkeys(PARTS, 0.0)
        self.counts = dict.fromkeys(PARTS, 0)
        self.saved = 0.0
        """What accepted leaps have saved, in the clock's unit."""
        self.steps = 0
        """Real training steps."""
        self.train_s = 0.0
        """Seconds of training, without pauses and without the tool."""
        self._step_s: deque[float] = deque(maxlen=INTERVALS)
        """Seconds of a training step, interval by interval."""
        self._position_s: float | None = None
        """Seconds of a forward position."""
        self.ranks = Ranks() if ranks is None else ranks
        self._own = dict.fromkeys(PARTS, 0.0)
        self._agreed = True

    def agree(self) -> None:
        """Take over rank 0's clock and the positions of all shares; every rank calls it at the same point.

        Call it before any decision that depends on costs; without new costs it does nothing.
        """
        if self.ranks.alone or self._agreed:
            return
        every: list[Any] = self.ranks.all_gather(f"costs after step {self.steps}", (self._timed(), self._own))
        seconds, self.train_s, step_s, self._position_s = every[0][0]
        self.seconds.update(seconds)  # in place: whoever is timing a block holds it
        self._step_s = deque(step_s, maxlen=INTERVALS)
        for name in PARTS:
            self.tokens[name] += sum(every[leader][1][name] for leader in self.ranks.leaders)
        self._own, self._agreed = dict.fromkeys(PARTS, 0.0), True

    def _timed(self) -> tuple[dict[str, float], float, list[float], float | None] | None:
        if self.ranks.rank > 0:
            return None
        return self.seconds, self.train_s, list(self._step_s), self._position_s

    def trained(self, steps: int, seconds: float) -> None:
        """Take in real steps since the last call, and the seconds that they took."""
        self._agreed = False
        self.steps += steps
        self.train_s += seconds
        if steps and seconds > 0.0:
            self._step_s.append(seconds / steps)

    @contextmanager
    def part(self, name: str, device: torch.device | None = None) -> Iterator[None]:
        """Count the block's seconds to a part; an accelerator's queue is waited for, at its end."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if device is not None and device.type == "cuda":
                torch.cuda.synchronize(device)
            self.seconds[name] += time.perf_counter() - start
            self.counts[name] += 1
            self._agreed = False

    @contextmanager
    def moved(self, source: str, target: str) -> Iterator[None]:
        """Count what a block adds to one part to another part instead, as one turn of it; nothing after an error."""
        self.agree()
        seconds, tokens, count = self.seconds[source], self.tokens[source], self.counts[source]
        yield
        self.agree()
        self.seconds[target] += self.seconds[source] - seconds
        self.tokens[target] += self.tokens[source] - tokens
        self.counts[target] += 1
        self.seconds[source], self.tokens[source], self.counts[source] = seconds, tokens, count

    def positions(self, name: str, count: float) -> None:
        """Count a forward pass of so many positions, on this rank."""
        (self.tokens if self.ranks.alone else self._own)[name] += count
        self._agreed = False

    def passes(self, name: str, count: float) -> None:
        """Count so many copies of all weights."""
        self.tokens[name] += count * PASS_TOKENS

    def measured(self, seconds: float, positions: float) -> None:
        """Take in a measured forward pass, from which the first costs are estimated."""
        if positions > 0:
            self._agreed, found = False, seconds / positions
            self._position_s = found if self._position_s is None else min(self._position_s, found)

    @property
    def elapsed_s(self) -> float:
        """Seconds of the run since its first step: training without pauses, and the tool."""
        return self.train_s + sum(self.seconds.values())

    @property
    def elapsed(self) -> float:
        """The run so far in the clock's unit, the tool included."""
        if self.clock == "tokens":
            return self.steps * (self.step_tokens or 0.0) + sum(self.tokens.values())
        return self.elapsed_s

    @property
    def spent(self) -> float:
        """What the tool has cost so far, in the clock's unit."""
        return sum(self._unit.values())

    @property
    def step_cost(self) -> float:
        """Cost of a training step, in the clock's unit: of seconds, the median over the last intervals."""
        if self.clock == "tokens":
            return self.step_tokens or 0.0
        return statistics.median(self._step_s) if self._step_s else 0.0

    @property
    def allowance(self) -> float:
        """What may be spent now: budget x elapsed + the reinvested share of what was saved - spent."""
        if self.budget is None:
            return math.inf
        return self.budget * self.elapsed + REINVESTED * self.saved - self.spent

    @property
    def overhead(self) -> float:
        """Share of the run's time that went into the tool, in the clock's unit."""
        return self.spent / self.elapsed if self.elapsed > 0 else 0.0

    def cost_of_positions(self, count: float) -> float:
        """What a forward pass of so many positions will cost about, in the clock's unit."""
        if self.clock == "tokens":
            return count
        return self.step_cost if self._position_s is None else count * self._position_s

    def mean_cost(self, name: str, positions: float) -> float:
        """What one more turn of a part will cost: the mean so far, or for the first one what its positions say."""
        self.agree()
        estimated = self.cost_of_positions(positions)
        return self._unit[name] / self.counts[name] if self.counts[name] else estimated

    def within(self, name: str, cost: float, share: float, without_budget: float = 1.0) -> bool:
        """Whether a part may spend `cost` more and stay within its share of all that may be spent.

        Args:
            name: of the part.
            cost: of what it would do now, in the clock's unit.
            share: of the budget.
            without_budget: share of the run's time that it may take where there is no budget.
        """
        self.agree()
        if self.budget is None:
            return without_budget >= 1.0 or self._unit[name] + cost <= without_budget * self.elapsed
        fund = self.budget * self.elapsed + REINVESTED * self.saved
        return self._unit[name] + cost <= share * fund and cost <= self.allowance

    @property
    def _unit(self) -> Mapping[str, float]:
        return self.tokens if self.clock == "tokens" else self.seconds

    def state_dict(self) -> dict[str, Any]:
        """Everything that goes on after a stop, as JSON values."""
        return {
            "seconds": dict(self.seconds),
            "tokens": dict(self.tokens),
            "counts": dict(self.counts),
            "saved": self.saved,
            "steps": self.steps,
            "train_s": self.train_s,
            "paces": list(self._step_s),
            "pace": self._position_s,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        # A state that was saved before a part existed does not name it.
        self.seconds, self.tokens = ({**dict.fromkeys(PARTS, 0.0), **state[name]} for name in ("seconds", "tokens"))
        self.counts = {**dict.fromkeys(PARTS, 0), **state["counts"]}
        self.saved, self.steps, self._position_s = state["saved"], state["steps"], state["pace"]
        self.train_s, self._step_s = state["train_s"], deque(state["paces"], maxlen=INTERVALS)
        self._own, self._agreed = dict.fromkeys(PARTS, 0.0), False


def copies(needs: Needs, history: History) -> float:
    """Copies of all weights that a prediction takes about: each is one read and one write of all of them.

    It reads its snapshots, moments and whatever else it asks for, writes once, and is read once for NaN.

    Args:
        needs: of the predictor.
        history: from which it predicts; as many snapshots count as it holds.
    """
    read = min(needs.reach, len(history)) + 2 * needs.optimizer_state + needs.recent + len(needs.milestones)
    read += len(history.averages.states) if needs.averages and history.averages is not None else 0
    return (read + 2) / 2


def network_tokens(method: Predictor, history: History, parameters: int) -> float:
    """The cost of the network that a predictor runs on each weight, if it has one that says its operations.

    Args:
        method: the predictor; one with a network has a method `operations(history)`.
        history: from which it predicts.
        parameters: all of the model's, frozen ones too; a forward token takes two operations for each.
    """
    operations = getattr(method, "operations", None)
    return 0.0 if operations is None else float(operations(history)) / (2.0 * parameters)
