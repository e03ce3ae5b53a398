"""The recognizer in a live run: one fingerprint a checkpoint, compared with the last one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leapverify.core.batch_tree import cut, tensors_in
from leapverify.core.undisturbed import WrittenError, unwritten
from leapverify.observe import Fingerprinter, ProbeSet, Thresholds, classify_regimes, similarity
from leapverify.observe.batches import BatchFingerprinter, Run, said
from leapverify.observe.capture import is_transformers, unwrapped

REMEMBERED = 512
"""Most past similarities that the thresholds read."""
PROBE_ROWS = 64
"""Examples of a held-out batch that serve as probes where none are given."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Regime and similarity at one checkpoint."""

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
        run: function of (model, batch), the loss function, that takes batches of the form of the probes.
        run_first: the probes are a held-out batch, which `run` is known to take: it is tried before passing the batch
            to the model in other ways. Token ids are passed as such first of all.

    Raises:
        ValueError: probes or layer do not fit the model.
    """

    def __init__(
        self,
        model: nn.Module,
        probes: Any,
        thresholds: Thresholds,
        *,
        tokenizer: Any = None,
        layer: str | None = None,
        run: Run | None = None,
        run_first: bool = False,
    ) -> None:
        rows = _token_rows(model, probes)
        self._makes: list[Callable[[], Fingerprinter | BatchFingerprinter]] = []
        if rows is not None:
            self._makes.append(lambda: Fingerprinter(model, rows, tokenizer=tokenizer, layer=layer))
        if rows is None or run is not None or tensors_in(probes):
            self._makes.append(lambda: BatchFingerprinter(model, probes, layer=layer, run=run, run_first=run_first))
        if run_first and _are_texts(probes) and tokenizer is None:
            self._makes = self._makes[-1:]
        self.fingerprint = self._makes[0]()
        self._found = 0
        self._model, self.thresholds = model, thresholds
        self._last: Tensor | None = None
        self._similarities: list[float | None] = []
        self._etas: list[float | None] = []

    @property
    def positions(self) -> int:
        """Positions that one look computes."""
        return self.fingerprint.positions

    def take(self) -> Tensor:
        """The fingerprint of the present weights; the first one finds out in which way the model takes the probes.

        Raises:
            ValueError: it takes them in none, or a forward pass writes parameters.
        """
        with unwritten(self._model):
            while True:
                try:
                    now = self.fingerprint()
                except (MemoryError, torch.OutOfMemoryError):
                    raise
                except Exception:
                    if self._found + 1 >= len(self._makes):
                        raise
                    self._follow(self._found + 1)
                else:
                    self._makes = self._makes[: self._found + 1]
                    return now

    def like(self, other: Recognizer) -> Recognizer:
        """This one, going on in the way in which another one has passed its probes."""
        if other._found != self._found:
            self._follow(other._found)
        return self

    def _follow(self, found: int) -> None:
        self.fingerprint, self._found = self._makes[found](), found

    def look(self, eta_sum: float | None = None) -> Observation:
        """Take the fingerprint of the present weights and compare it with the last one.

        Args:
            eta_sum: sum of the learning rates since the last look; needed by the thresholds `rate` alone.
        """
        now = self.take()
        s = None if self._last is None or self._last.shape != now.shape else similarity(self._last, now)
        self._last = now
        self._similarities = [*self._similarities, s][-REMEMBERED:]
        self._etas = [*self._etas, eta_sum][-REMEMBERED:]
        labels = classify_regimes(self._similarities, self.thresholds, eta_sums=self._etas)
        return Observation(labels[-1], s)

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


def checked_recognizer(make: Callable[[Any], Recognizer], probes: Any) -> Recognizer:
    """The recognizer of the first probe, or of all where that one alone does not do, after it has taken a fingerprint.

    Raises:
        ValueError: the model takes the probes in no way, or the layer is not reached.
    """
    try:
        recognizer = make(first_of(probes))
        recognizer.take()
    except WrittenError:
        raise
    except Exception as first:
        # A batch of one may be what the model does not take.
        try:
            recognizer = make(probes)
            recognizer.take()
        except Exception as error:
            raise _explained(error) from first
    return recognizer


def _explained(error: Exception) -> ValueError:
    """The error in one sentence that names a remedy."""
    remedies = ("layer", "probe", "tokenizer", "parameter")
    if isinstance(error, ValueError) and any(word in str(error) for word in remedies) and "\n" not in str(error):
        return ValueError(str(error))
    return ValueError(
        f"the first look at the model failed ({said(error)}): pass probes=, a batch that the model takes, or name what "
        "to look at with layer="
    )


def _are_texts(probes: Any) -> bool:
    texts = isinstance(probes, Sequence) and len(probes) > 0 and isinstance(probes[0], str)
    return isinstance(probes, ProbeSet) or texts


def _token_rows(model: nn.Module, probes: Any) -> Any:
    """Texts, or the token ids of a batch as one 1-D tensor each without padding; None for any other batch."""
    if _are_texts(probes):
        return probes
    if isinstance(probes, Mapping):
        ids, mask = probes.get("input_ids"), probes.get("attention_mask")
        if not isinstance(ids, Tensor) or not _is_ids(ids) or not is_transformers(unwrapped(model)):
            return None
        return list(ids) if mask is None else [row[keep.bool()] for row, keep in zip(ids, mask, strict=True)]
    if isinstance(probes, list) and probes and all(isinstance(p, Tensor) and p.dim() == 1 for p in probes):
        return probes if not probes[0].is_floating_point() else None
    first = next(iter(tensors_in(probes)), None)
    return list(first) if first is not None and _is_ids(first) else None


def _is_ids(value: Tensor) -> bool:
    kinds = (torch.int64, torch.int32)
    return value.dim() == 2 and value.dtype in kinds and bool(value.numel()) and int(value.min()) >= 0


def probes_of(batch: Any) -> Any:
    """The first examples of a held-out batch, in its own form, to serve as probes."""
    return cut(batch, PROBE_ROWS)


def first_of(probes: Any) -> Any:
    """The first probe alone, in the form in which it was given."""
    if isinstance(probes, ProbeSet):
        return list(probes.texts[:1])
    if isinstance(probes, list) and probes and all(isinstance(p, Tensor) and p.dim() == 1 for p in probes):
        return probes[:1]
    return cut(probes, 1)
