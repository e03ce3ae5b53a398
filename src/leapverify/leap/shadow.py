"""Shadow predictions that wait for their K real steps, to be compared with them on the same sequences."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leapverify.core.batch_tree import mapped, tensors_in
from leapverify.leap.policy.base import Proposal
from leapverify.verify.comparison import Comparison

logger = logging.getLogger(__name__)

KEPT = 16
"""Predictions that wait at most: each holds its held-out batches."""
SAVED_BYTES = 64_000_000
"""Of held-out batches in a saved state at most."""

_NUMBERS = ("due", "step", "predictor", "horizon", "loss_now", "loss_predicted")


@dataclass(frozen=True, slots=True, eq=False)
class PendingPrediction:
    """A prediction that was judged and not carried out."""

    due: int
    """Real step t + K."""
    step: int
    predictor: str
    horizon: int
    loss_now: float
    loss_predicted: float
    batches: tuple[Any, ...]

    def reason(self, step: int) -> str:
        """What an event at a real step says of it: where the loop missed the step t + K, how far the run has come.

        Args:
            step: real steps so far.
        """
        since = f"{step - self.step} real steps after the prediction at step {self.step}"
        return since if step == self.due else f"{since}, which was for {self.horizon}"


class PendingPredictions:
    """Predictions in the order in which they were made; the oldest give way."""

    def __init__(self) -> None:
        self._queue: deque[PendingPrediction] = deque(maxlen=KEPT)
        self._reported = False

    def expect(self, step: int, proposal: Proposal, compared: Comparison | None) -> None:
        """Wait for what K real steps will do after a prediction that was judged at a step."""
        if compared is None or compared.loss_now is None or compared.loss_predicted is None:
            return
        name, horizon, losses = proposal.predictor, proposal.horizon, (compared.loss_now, compared.loss_predicted)
        self.add(PendingPrediction(step + horizon, step, name, horizon, *losses, compared.batches))

    def add(self, pending: PendingPrediction) -> None:
        """Wait for one more."""
        self._queue.append(pending)

    @property
    def next_due(self) -> int | None:
        """The nearest step at which one is due."""
        return min((each.due for each in self._queue), default=None)

    def due(self, step: int) -> list[PendingPrediction]:
        """Those due at a step or before it, no longer waited for."""
        found = [each for each in self._queue if each.due <= step]
        self._queue = deque((each for each in self._queue if each.due > step), maxlen=KEPT)
        return found

    def __iter__(self) -> Iterator[PendingPrediction]:
        return iter(self._queue)

    def clear(self) -> None:
        """Wait for none."""
        self._queue.clear()

    def state_dict(self) -> list[dict[str, Any]]:
        """Those that wait, with copies of their batches.

        Batches that `torch.load(weights_only=True)` would not take (anything but tensors and plain values in dicts,
        lists and tuples), or that are too large together, are left out with their predictions, which is logged once.
        """
        found: list[dict[str, Any]] = []
        room = SAVED_BYTES
        for each in self._queue:
            size = sum(tensor.nbytes for tensor in tensors_in(each.batches)) if _is_plain(each.batches) else None
            if size is None or size > room:
                self._tell()
                continue
            room -= size
            numbers = {name: getattr(each, name) for name in _NUMBERS}
            # Copies, because a view would take everything along that it is a view of.
            batches = mapped(each.batches, lambda tensor: tensor.detach().clone())
            places = [tensor.device.type for tensor in tensors_in(each.batches)]
            found.append({**numbers, "batches": batches, "places": places})
        return found

    def load_state_dict(self, state: Sequence[Mapping[str, Any]], device: torch.device) -> None:
        """Wait for what `state_dict` gave, and for nothing else.

        Args:
            state: as saved, wherever it was loaded to.
            device: of the weights, where what lay on an accelerator is put; what lay in host memory is put back there.
        """
        found = [_pending(each, device) for each in state]
        self._queue = deque(found, maxlen=KEPT)

    def _tell(self) -> None:
        if not self._reported:
            self._reported = True
            logger.info(
                "leapverify: some shadow predictions wait with batches that are no tensors or above %d MB, and are not "
                "saved: after a resume nothing is said of them",
                SAVED_BYTES // 1_000_000,
            )


def _pending(saved: Mapping[str, Any], device: torch.device) -> PendingPrediction:
    places = iter(saved["places"])

    def placed(tensor: Tensor) -> Tensor:
        return tensor.to("cpu" if next(places) == "cpu" else device)

    numbers = {name: saved[name] for name in _NUMBERS}
    return PendingPrediction(**numbers, batches=tuple(mapped(each, placed) for each in saved["batches"]))


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in (dict, OrderedDict):
        return all(isinstance(key, str | int) and _is_plain(each) for key, each in value.items())
    if kind in (list, tuple):
        return all(_is_plain(each) for each in value)
    return value is None or kind in (Tensor, bool, int, float, str)
