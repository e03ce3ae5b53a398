"""Whether a run trains on its own held-out data: sequences of both, compared by their hashes."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from leapverify.leap.recognizer import tensors_in

SHOWN = 256
"""Training batches that are looked at; hashing them all would cost time for the whole run."""
LEAST_ELEMENTS = 8
"""Rows of fewer elements may be equal by chance."""


class Overlap:
    """Hashes of the held-out rows that were drawn and of the training rows that were shown."""

    def __init__(self) -> None:
        self._heldout: set[bytes] = set()
        self._shown: set[bytes] = set()
        self._batches = 0
        self._told = False

    @property
    def watching(self) -> bool:
        """Whether further training batches are looked at."""
        return self._batches < SHOWN and not self._told

    def train(self, batch: Any) -> None:
        """Take in a training batch."""
        if self.watching:
            self._batches += 1
            self._shown |= _rows(batch)

    def heldout(self, batch: Any) -> None:
        """Take in a held-out batch."""
        if self._shown and not self._told:
            self._heldout |= _rows(batch)

    def found(self) -> str | None:
        """A sentence, once, as soon as a sequence has occurred on both sides."""
        both = self._heldout & self._shown
        if self._told or not both:
            return None
        self._told = True
        return (
            f"{len(both)} held-out sequences also occurred among the {self._batches} training batches shown: verdicts "
            "on them say nothing; give held-out data that are not trained on"
        )


def _rows(batch: Any) -> set[bytes]:
    chosen = next(
        (each for each in tensors_in(batch) if each.dim() > 1 and _row_elements(each) >= LEAST_ELEMENTS), None
    )
    if chosen is None:
        return set()
    rows = chosen.detach().cpu().contiguous().flatten(1)
    raw = rows.view(torch.uint8) if rows.dtype != torch.bool else rows
    return {hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in raw.numpy()}


def _row_elements(tensor: Tensor) -> int:
    return tensor.numel() // max(1, len(tensor))
