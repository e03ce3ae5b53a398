"""One snapshot of a run's weights, and the buffers that snapshots lie in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Snapshot:
    """The weights after one step; the tensors belong to whoever keeps them and must not be written."""

    step: int
    tensors: tuple[Tensor, ...]


def as_state(snapshots: Iterable[Snapshot]) -> dict[str, Any]:
    """Snapshots as lists: `steps`, and under `states` their own tensors, not copies."""
    every = list(snapshots)
    return {"steps": [each.step for each in every], "states": [list(each.tensors) for each in every]}


class Buffers:
    """Buffers for the tensors of snapshots: allocated when first needed, used again when given back."""

    def __init__(self) -> None:
        self._spare: list[tuple[Tensor, ...]] = []
        self._storages: set[int] = set()
        self.nbytes = 0
        """Bytes of all that have been allocated."""

    def take(self, allocate: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Buffers for one snapshot; `allocate` makes them where none are spare."""
        if self._spare:
            return self._spare.pop()
        buffers = allocate()
        self.nbytes += sum(each.nbytes for each in buffers)
        self._storages |= {place for each in buffers if (place := each.untyped_storage().data_ptr())}
        return buffers

    def give_back(self, snapshot: Snapshot) -> None:
        """Its buffers may be used for another snapshot."""
        self._spare.append(snapshot.tensors)

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor shares memory with one of the buffers."""
        return tensor.untyped_storage().data_ptr() in self._storages
