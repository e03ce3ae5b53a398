"""The recognizer in a run that goes on: one fingerprint a checkpoint, compared with the last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leapverify.observe import Fingerprinter, ProbeSet, Thresholds, classify_regimes, similarity
from leapverify.observe.batches import BatchFingerprinter
from leapverify.observe.capture import is_transformers, unwrapped

REMEMBERED = 512
"""Similarities that the thresholds may look back on."""
PROBE_ROWS = 64
"""Examples of a held-out batch that serve as probes where none are given."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at the run gave."""

    regime: str
    similarity: float | None
    """To the fingerprint before; None at the first one and after a leap."""


class Recognizer:
    """Keeps the last fingerprint and the similarities so far, and says in which regime the run is.

    Args:
        model: the model that is observed.
        probes: texts (with a tokenizer) or a probe set; token ids (n, T), or one 1-D tensor each; or any batch that the
            model takes.
        thresholds: how similarities become regimes.
        tokenizer: object with `encode(text)`.
        layer: name of the module to look at; None for the last norm, else the input of the head.

    Raises:
        ValueError: probes or layer do not fit the model.
    """

    def __init__(
        self, model: nn.Module, probes: Any, thresholds: Thresholds, *, tokenizer: Any = None, layer: str | None = None
    ) -> None:
        self.fingerprint = _fingerprinter(model, probes, tokenizer, layer)
        self.thresholds = thresholds
        self._last: Tensor | None = None
        self._similarities: list[float | None] = []
        self._etas: list[float | None] = []

    @property
    def positions(self) -> int:
        """Positions that one look computes."""
        return self.fingerprint.positions

    def look(self, eta_sum: float | None = None) -> Seen:
        """Take the fingerprint of the present weights and compare it with the last one.

        Args:
            eta_sum: sum of the learning rates since the last look; needed by the thresholds `rate` alone.
        """
        now = self.fingerprint()
        s = None if self._last is None or self._last.shape != now.shape else similarity(self._last, now)
        self._last = now
        self._similarities = [*self._similarities, s][-REMEMBERED:]
        self._etas = [*self._etas, eta_sum][-REMEMBERED:]
        labels = classify_regimes(self._similarities, self.thresholds, eta_sums=self._etas)
        return Seen(labels[-1], s)

    def forget_last(self) -> None:
        """After a leap: the next fingerprint has nothing to be compared with."""
        self._last = None

    def state_dict(self) -> dict[str, Any]:
        """The last fingerprint and the similarities."""
        return {
            "identity": self.fingerprint.identity,
            "last": self._last,
            "similarities": list(self._similarities),
            "etas": list(self._etas),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; fingerprints of other probes are not compared with."""
        self._similarities, self._etas = list(state["similarities"]), list(state["etas"])
        self._last = state["last"] if state["identity"] == self.fingerprint.identity else None


def _fingerprinter(
    model: nn.Module, probes: Any, tokenizer: Any, layer: str | None
) -> Fingerprinter | BatchFingerprinter:
    rows = _token_rows(model, probes)
    if rows is not None:
        return Fingerprinter(model, rows, tokenizer=tokenizer, layer=layer)
    return BatchFingerprinter(model, probes, layer=layer)


def _token_rows(model: nn.Module, probes: Any) -> Any:
    """Texts, or the token ids of a batch as one 1-D tensor each without padding; None for any other batch."""
    if isinstance(probes, ProbeSet) or (isinstance(probes, Sequence) and probes and isinstance(probes[0], str)):
        return probes
    if isinstance(probes, Tensor):
        return list(probes) if _is_ids(probes) else None
    if isinstance(probes, Mapping):
        ids, mask = probes.get("input_ids"), probes.get("attention_mask")
        if not isinstance(ids, Tensor) or not _is_ids(ids) or not is_transformers(unwrapped(model)):
            return None
        return list(ids) if mask is None else [row[keep.bool()] for row, keep in zip(ids, mask, strict=True)]
    if isinstance(probes, list) and probes and all(isinstance(p, Tensor) and p.dim() == 1 for p in probes):
        return probes if not probes[0].is_floating_point() else None
    return None


def _is_ids(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and value.dtype in (torch.int64, torch.int32)


def probes_of(batch: Any) -> Any:
    """The first examples of a held-out batch, to serve as probes.

    Sequences of token ids where the batch holds such, otherwise the batch itself, cut short.
    """
    found = next((each for each in tensors_in(batch) if _is_ids(each)), None)
    if found is not None and not isinstance(batch, Mapping):
        return found[:PROBE_ROWS]
    if isinstance(batch, Tensor):
        return batch[:PROBE_ROWS]
    if isinstance(batch, Mapping):
        return {name: value[:PROBE_ROWS] for name, value in batch.items() if isinstance(value, Tensor) and value.dim()}
    return [each[:PROBE_ROWS] for each in tensors_in(batch) if each.dim()]


def first_of(probes: Any) -> Any:
    """The first probe alone, in the form in which it was given."""
    if isinstance(probes, ProbeSet):
        return list(probes.texts[:1])
    if isinstance(probes, Mapping):
        return {name: value[:1] for name, value in probes.items() if isinstance(value, Tensor) and value.dim()}
    if isinstance(probes, Sequence) and probes and isinstance(probes[0], Tensor) and probes[0].dim() > 1:
        return [each[:1] for each in probes if isinstance(each, Tensor) and each.dim()]
    return probes[:1]


def tensors_in(batch: Any) -> list[Tensor]:
    """The tensors of a batch: itself, or those in its fields, values or items, in their order."""
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, Mapping):
        return [value for value in batch.values() if isinstance(value, Tensor)]
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return [value for value in batch if isinstance(value, Tensor)]
    names = getattr(batch, "__dataclass_fields__", None) or getattr(batch, "__dict__", {})
    return [value for value in (getattr(batch, name) for name in names) if isinstance(value, Tensor)]
