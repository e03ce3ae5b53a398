"""Sampling of held-out batches: the next one each time, so that no fixed batch is over-used.

A test counts its sequences as independent, and what was picked on some of them is to be verified on others. Between
two calls of `open_window` no batch is therefore given twice: copies of one sequence are no further evidence.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class Exhausted(Exception):
    """Another held-out batch would be one that this window has given already."""


class FreshBatches:
    """Hands out held-out batches, the next one each time, and none twice within a window.

    A window is what lies between two calls of `open_window`: one decision, with all that was picked for it. Windows go
    on where the last one stopped, and a set begins again where it ends; over the windows its batches come in turn.
    Within one window `draw` raises `Exhausted` instead of repeating a batch: after as many draws as the set has
    batches, and, for a set that is no plain sequence (a loader may shuffle), also at the end of a pass, because the
    next pass may begin with what this window has seen; the next window then begins a new pass. A function is taken to
    give a fresh batch every time and never exhausts. The first window is open from the beginning.

    A held-out set may draw random numbers (a shuffling loader, a function that cuts random windows). Each draw
    therefore runs on random streams of its own, seeded by (seed, number of the draw), and the run's own streams of
    Python, NumPy and torch are put back after it: drawing leaves no trace in the run, every draw is fresh, and the
    n-th draw is the same one after a resume.

    Args:
        heldout: batches of whatever the loss function takes, in anything that can be gone through again, or a function
            that gives one fresh batch a call.
        seed: of the random streams that the held-out set sees.

    Raises:
        ValueError: no held-out data, an empty set, an iterator that can be read only once, a single batch, or a
            negative seed.
    """

    draws: int
    """Batches handed out so far."""

    size: int | None
    """Batches of the set, known once it was gone through or if it has a length; None for a function."""

    def __init__(self, heldout: Iterable[Any] | Callable[[], Any], *, seed: int = 0) -> None:
        if seed < 0:
            raise ValueError(f"seed = {seed} of the held-out draws is negative: give a number from 0 on")
        self._function, self._set = _sorted_out(heldout)
        self.seed = seed
        self.draws = 0
        self.size = _length(self._set)
        if self.size == 0:
            raise ValueError("the held-out set is empty (0 batches): give at least one batch")
        self._ordered = isinstance(heldout, Sequence)
        self._pass: Iterator[Any] | None = None
        self._position = 0
        self._window = 0
        self._least, self._each, self._needed = 1, 1, 1

    @property
    def passes(self) -> float | None:
        """How many times the set was gone through: draws / size; None while the size is unknown."""
        return self.draws / self.size if self.size else None

    @property
    def left(self) -> int | None:
        """Batches that this window still gives; None where the size is unknown, and for a function."""
        if self.size is None:
            return None
        left = self.size - self._window
        if not self._ordered:
            rest = 0 if self._pass is None else self.size - self._position
            left = min(left, rest or (0 if self._window else self.size))
        return max(0, left)

    def require(self, sequences_per_batch: int, sequences: int) -> None:
        """Refuse a set that is too small for a decision, and let no window begin where a pass is about to end.

        Where the size is unknown yet, it is checked once the set was gone through.

        Args:
            sequences_per_batch: of the batches; 1 where the loss function gives one number a batch.
            sequences: that one decision needs, those to pick by included.

        Raises:
            ValueError: the set holds fewer sequences, or is a single batch.
        """
        self._each, self._needed = sequences_per_batch, max(sequences, 2 * sequences_per_batch)
        self._least = math.ceil(self._needed / sequences_per_batch)
        self._require_enough()

    def open_window(self) -> None:
        """Begin a window: batches of earlier ones may come again."""
        self._window = 0
        rest = None if self.size is None else self.size - self._position
        if self._pass is not None and not self._ordered and rest is not None and rest < self._least:
            self._pass, self._position = None, 0

    def draw(self) -> Any:
        """The next batch.

        Raises:
            Exhausted: the window has given every batch that it may give.
            ValueError: the set gives no batch, cannot be gone through again, or the function has none left.
        """
        if self.size is not None and self._window >= self.size:
            raise self._exhausted()
        batch = self._forward()
        self._window += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """How many batches were handed out, and how many of them in the present pass and the present window."""
        return {"draws": self.draws, "position": self._position, "size": self.size, "window": self._window}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, by going forward again.

        A set is gone through from the beginning of the pass it was in. A function is called as often as it was called
        before, unless it has been already, because it may count for itself.

        Raises:
            ValueError: the state is none, or the set has fewer batches than it had.
        """
        draws, position = state.get("draws"), state.get("position")
        if not (isinstance(draws, int) and isinstance(position, int) and 0 <= position <= draws):
            raise ValueError(f"{dict(state)} is no state of held-out batches: pass what state_dict() gave")
        self._window = 0
        if self._function is not None:
            while self.draws < draws:
                self._forward()
            self.draws = draws
            return
        self._pass, self._position, self.draws = None, 0, draws - position
        self.size = _length(self._set) or state.get("size")
        for _ in range(position):
            self._forward()
        if self._position != position:
            raise ValueError(
                f"the held-out set ended before its batch {position}, where the run had been: give the same set again"
            )
        self._window = int(state.get("window", 0))

    def _forward(self) -> Any:
        with _own_streams(self.seed, self.draws):
            batch = self._call() if self._function is not None else self._next()
        self.draws += 1
        return batch

    def _call(self) -> Any:
        assert self._function is not None
        try:
            batch = self._function()
        except StopIteration as error:
            raise ValueError(
                f"the held-out function has no batch left after {self.draws} draws: give one that never ends"
            ) from error
        if batch is None:
            raise ValueError("the held-out function returned nothing: return one batch a call")
        return batch

    def _next(self) -> Any:
        assert self._set is not None
        for _ in range(2):
            if self._pass is None:
                if self._window and not self._ordered:
                    raise self._exhausted()
                self._pass, self._position = iter(self._set), 0
            for batch in self._pass:
                self._position += 1
                return batch
            if self._position:
                self.size = self._position
                self._require_enough()
            self._pass, self._position = None, 0
        if self.draws == 0:
            raise ValueError("the held-out set is empty (0 batches): give at least one batch")
        raise ValueError(
            f"the held-out set gave nothing when it was gone through again after {self.draws} batches: "
            "give a list of batches or a function that returns a fresh batch a call"
        )

    def _exhausted(self) -> Exhausted:
        return Exhausted(
            f"all {self._window} held-out batches that this window gives have been used: go on in the next window, or "
            "give a larger set"
        )

    def _require_enough(self) -> None:
        if self.size is None or self.size >= self._least:
            return
        batches = f"{self.size} batch" + ("es" if self.size > 1 else "")
        remedy = ", or a loss function that gives one loss for each sequence" if self._each == 1 else ""
        raise ValueError(
            f"the held-out set has {self.size * self._each} sequences ({batches}), and {self._needed} are needed to "
            f"pick on some and verify on others: give at least {self._least} such batches{remedy}"
        )


def _sorted_out(heldout: Any) -> tuple[Callable[[], Any] | None, Iterable[Any] | None]:
    """The function or the set, one of them None."""
    if heldout is None:
        raise ValueError("no held-out data were given: pass a list of batches or a function that gives a fresh batch")
    if callable(heldout):
        return heldout, None
    if isinstance(heldout, (Mapping, torch.Tensor, str, bytes)):
        raise ValueError(f"the held-out set is a {type(heldout).__name__}, one batch and no set: put it into a list")
    if not isinstance(heldout, Iterable) and not hasattr(heldout, "__getitem__"):
        raise ValueError(
            f"the held-out set is a {type(heldout).__name__}, which holds no batches: pass a list of batches or a "
            "function that gives a fresh batch"
        )
    if isinstance(heldout, Iterator):
        raise ValueError(
            f"the held-out set is a {type(heldout).__name__}, which can be read only once: give a list of batches, or "
            "a function that gives the next one, lambda: next(it)"
        )
    return None, heldout


def _length(batches: Iterable[Any] | None) -> int | None:
    """The length of a set that has one; a loader of a stream has the method but no answer."""
    if not isinstance(batches, Sized):
        return None
    try:
        return len(batches)
    except TypeError:
        return None


@contextmanager
def _own_streams(seed: int, number: int) -> Iterator[None]:
    """Seed the global random streams for a block by (seed, number), and put them back after it."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    random.seed(own)
    np.random.seed(own)
    torch.default_generator.manual_seed(own)  # torch.manual_seed would also seed accelerators not yet in use
    if cuda:
        torch.cuda.manual_seed_all(own)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
