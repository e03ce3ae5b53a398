"""Leakage: whether a run trains on its own held-out data. Rows of both are compared by their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from leapverify.core.batch_tree import tensors_in

SHOWN = 256
"""Training batches that are looked at; hashing them all would cost time for the whole run."""
SHOWN_ROWS = 8
"""Rows of each of them."""
HELD = 64
"""Held-out batches that are looked at."""
HELD_ROWS = 256
"""Rows of each of them."""
LEAST_ELEMENTS = 8
"""Rows of fewer elements may be equal by chance."""
MOST_ELEMENTS = 1024
"""Elements of a row that are hashed, evenly spread over it."""


class LeakageCheck:
    """Hashes of the first held-out rows that were drawn and of the first training rows that were shown.

    Whichever side comes first is kept until the other has been seen, in any order; both are bounded, and dropped as
    soon as there is nothing left to compare them with.
    """

    def __init__(self) -> None:
        self._heldout: set[bytes] = set()
        self._shown: set[bytes] = set()
        self._both: set[bytes] = set()
        self._batches = self._draws = 0
        self._reported = False

    @property
    def watching(self) -> bool:
        """Whether further training batches are looked at."""
        return self._batches < SHOWN and not self._reported

    def train(self, batch: Any) -> None:
        """Take in a training batch."""
        if not self.watching:
            return
        self._batches += 1
        rows = _rows(batch, SHOWN_ROWS)
        self._both |= rows & self._heldout
        if self._draws < HELD:
            self._shown |= rows
        if not self.watching:
            self._heldout.clear()

    def heldout(self, batch: Any) -> None:
        """Take in a held-out batch."""
        if self._reported or self._draws >= HELD:
            return
        self._draws += 1
        rows = _rows(batch, HELD_ROWS)
        self._both |= rows & self._shown
        if self.watching:
            self._heldout |= rows
        if self._draws >= HELD:
            self._shown.clear()

    def found(self) -> str | None:
        """A sentence, once, as soon as a sequence has occurred on both sides."""
        if self._reported or not self._both:
            return None
        self._reported, count = True, len(self._both)
        for kept in (self._heldout, self._shown, self._both):
            kept.clear()
        return (
            f"{count} held-out sequences also occurred among the {self._batches} training batches shown: verdicts on "
            "them say nothing; give held-out data that are not trained on"
        )


def _rows(batch: Any, most: int) -> set[bytes]:
    """Hashes of the first rows of a batch, the same ones whatever type and device its numbers have."""
    chosen = next((each for each in _candidates(batch) if _tells(each)), None)
    if chosen is None:
        return set()
    rows = chosen.detach()[:most].flatten(1)
    rows = rows[:, :: -(-rows.shape[1] // MOST_ELEMENTS)]
    rows = rows.to("cpu", torch.float32 if rows.is_floating_point() else torch.int64).contiguous()
    # Rows of one value, such as a mask or a dark image, are alike everywhere.
    rows = rows[(rows != rows[:, :1]).any(1)]
    return {hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows.numpy()}


def _candidates(batch: Any) -> list[Tensor]:
    found = tensors_in(batch)
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    return [ids, *found] if isinstance(ids, Tensor) else found


def _tells(tensor: Tensor) -> bool:
    kind = tensor.dtype
    plain = kind != torch.bool and not kind.is_complex and tensor.layout == torch.strided
    return plain and tensor.dim() > 1 and tensor.numel() // max(1, len(tensor)) >= LEAST_ELEMENTS
