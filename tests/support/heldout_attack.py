"""Proposals that are no improvement, put to the real comparison over held-out batches that may come again.

A model that is linear in its weights: the gain of sequence x under weights w is <x, w>, with x standard normal. Over
all sequences that could be drawn the mean gain is 0 whatever w is, so every accepted proposal is a false one; over a
set of so many sequences it is not, and who proposes may learn what that set likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from leapverify.verify import Exhausted, FreshBatches, PairedTest, compare
from leapverify.verify.sequential import Decision
from sequential_fast import Array, rounds

FEATURES, BATCH, ARMS = 48, 8, 32
SET_BATCHES, BUDGET = 32, 256


class Linear(nn.Module):
    """Weights, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(FEATURES, dtype=torch.float64), requires_grad=False)


def losses(model: nn.Module, batch: Tensor) -> Tensor:
    """3 nats less <x, w>."""
    return 3.0 - batch @ model.weights


class Shown(Protocol):
    """What a proposer sees of a verdict."""

    @property
    def accepted(self) -> bool: ...
    @property
    def gain(self) -> float | None: ...
    @property
    def batches(self) -> tuple[Tensor, ...]: ...


class Verdict(NamedTuple):
    """One verdict on a proposal that gains nothing."""

    passes: float
    """How often the set had been gone through when the verdict began, 0 where batches never come again."""
    accepted: bool


class Proposer:
    """Proposes weights; told of every verdict. This one draws a new direction each time."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def direction(self) -> Array:
        """A random one."""
        return self.rng.standard_normal(FEATURES)

    def propose(self, draw: Callable[[], Tensor]) -> tuple[Array, list[Tensor]]:
        """Weights, and batches that the verdict is to read first (none, where nobody cheats)."""
        return self.direction(), []

    def learn(self, found: Shown) -> None:
        """What the verdict showed."""


class Same(Proposer):
    """One direction for ever, as a predictor that always errs the same way."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self.own = self.direction()

    def propose(self, draw: Callable[[], Tensor]) -> tuple[Array, list[Tensor]]:
        return self.own, []


class Follower(Proposer):
    """Thirty-two directions; each once, then always the one with the highest mean gain in its verdicts so far."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self.arms = [self.direction() for _ in range(ARMS)]
        self.gains: list[list[float]] = [[] for _ in range(ARMS)]
        self.chosen = 0

    def propose(self, draw: Callable[[], Tensor]) -> tuple[Array, list[Tensor]]:
        means = [float(np.mean(each)) if each else np.inf for each in self.gains]
        self.chosen = int(np.argmax(means))
        return self.arms[self.chosen], []

    def learn(self, found: Shown) -> None:
        self.gains[self.chosen].append(found.gain or 0.0)


class Chooser(Proposer):
    """The best of 32 new directions on a batch of this window that the verdict does not read, as the engine's."""

    again = False

    def propose(self, draw: Callable[[], Tensor]) -> tuple[Array, list[Tensor]]:
        shown = [draw(), draw()] if self.again else [draw()]
        arms = np.array([self.direction() for _ in range(ARMS)])
        best = int(np.argmax((torch.cat(shown).numpy() @ arms.T).mean(axis=0)))
        return arms[best], shown if self.again else []


class Cheat(Chooser):
    """The best of 32 on the very batches that the verdict begins with, which the engine never does."""

    again = True


class Learner(Proposer):
    """The direction in which all sequences of earlier verdicts gained most: the mean of what was shown."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self.seen: set[bytes] = set()
        self.sum = np.zeros(FEATURES)

    def propose(self, draw: Callable[[], Tensor]) -> tuple[Array, list[Tensor]]:
        return (self.sum / len(self.seen) if self.seen else self.direction()), []

    def learn(self, found: Shown) -> None:
        for row in torch.cat(found.batches).numpy():
            if row.tobytes() not in self.seen:
                self.seen.add(row.tobytes())
                self.sum += row


PROPOSERS: dict[str, type[Proposer]] = {
    "a new direction each time": Proposer,
    "the same direction for ever": Same,
    "follows earlier verdicts": Follower,
    "picked on another batch of the window": Chooser,
    "learns from every sequence shown": Learner,
    "picked on the verdict's own batches": Cheat,
}
SETS = {"fresh": None, "reused": SET_BATCHES}


def attack(proposer: str, size: int | None, seed: int, verdicts: int, *, fast: bool = False) -> Iterator[Verdict]:
    """One run: so many verdicts at alpha = 0.05.

    Args:
        proposer: key of PROPOSERS.
        size: batches of the held-out set, which come in turn for ever; None for batches that never come again.
        seed: of the set and of the proposals.
        verdicts: of the run.
        fast: by the sequential test alone, without `compare` and `FreshBatches`; the verdicts are the same ones.
    """
    rng = np.random.default_rng([seed, 20])

    def batch() -> Tensor:
        return torch.from_numpy(rng.standard_normal((BATCH, FEATURES)))

    given = batch if size is None else [batch() for _ in range(size)]
    fresh = InTurn(given) if fast else FreshBatches(given)
    model, one = Linear(), PROPOSERS[proposer](np.random.default_rng([seed, 21]))
    for _ in range(verdicts):
        fresh.open_window()
        passes = fresh.passes or 0.0
        weights, first = one.propose(fresh.draw)

        def draw(first: list[Tensor] = first) -> Tensor:
            return first.pop(0) if first else fresh.draw()

        found = _test(weights, draw) if fast else _compare(model, torch.from_numpy(weights), draw)
        one.learn(found)
        yield Verdict(passes, found.accepted)


def _compare(model: Linear, weights: Tensor, draw: Callable[[], Tensor]) -> Shown:
    def fill(values: Tensor) -> None:
        model.weights.copy_(values)

    fill(torch.zeros(FEATURES))
    return compare(
        model,
        losses,
        draw,
        to_now=lambda: fill(torch.zeros(FEATURES)),
        to_predicted=lambda: fill(weights),
        budget=BUDGET,
    )


# --- the same without the machinery -----------------------------------------------------------------------------------


class InTurn:
    """What `FreshBatches` gives, without random streams of its own."""

    def __init__(self, given: Callable[[], Tensor] | list[Tensor]) -> None:
        self._given, self._draws, self._window = given, 0, 0

    @property
    def passes(self) -> float | None:
        """Draws over the size of the set."""
        return self._draws / len(self._given) if isinstance(self._given, list) else None

    def open_window(self) -> None:
        """Batches of earlier windows may come again."""
        self._window = 0

    def draw(self) -> Tensor:
        """The next one."""
        self._window += 1
        self._draws += 1
        if not isinstance(self._given, list):
            return self._given()
        if self._window > len(self._given):
            self._draws -= 1
            raise Exhausted
        return self._given[(self._draws - 1) % len(self._given)]


class Tested(NamedTuple):
    """What a proposer sees."""

    accepted: bool
    gain: float | None
    batches: tuple[Tensor, ...]


def _test(weights: Array, draw: Callable[[], Tensor]) -> Tested:
    test, batches, gains = PairedTest(), [], np.empty(0)
    try:
        for count in rounds(BATCH, BUDGET):
            fresh: list[Tensor] = []
            try:
                while BATCH * (len(batches) + len(fresh)) < count:
                    fresh.append(draw())
            finally:
                batches += fresh
                new = np.concatenate([each.numpy() @ weights for each in fresh]) if fresh else np.empty(0)
                gains = np.concatenate([gains, new])
                if len(new):
                    test.update(new)
            if test.decision is not None:
                break
    except Exhausted:
        pass
    return Tested(test.decision is Decision.ACCEPT, float(gains.mean()), tuple(batches))
