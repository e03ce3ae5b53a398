"""A few early states of a run, kept so that one lies near every share of its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leapverify.weights import Tensors, copy_


@dataclass(frozen=True)
class Milestone:
    """The weights after one step; the tensors belong to the archive and must not be written."""

    step: int
    tensors: tuple[Tensor, ...]


class Milestones:
    """The first state and later ones, thinned so that their steps grow geometrically towards the newest.

    Of `count` states the first and the newest always stay. Where room is needed, the state goes whose neighbours are
    nearest to one another by the ratio of their steps: what is kept then covers every share of t about equally well.

    Args:
        count: states kept at most, at least 3.

    Raises:
        ValueError: fewer than 3.
    """

    def __init__(self, count: int = 12) -> None:
        if count < 3:
            raise ValueError(f"{count} milestones cannot be thinned: keep at least 3")
        self._count = count
        self._kept: list[Milestone] = []

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def steps(self) -> tuple[int, ...]:
        """Of the kept states, oldest first."""
        return tuple(each.step for each in self._kept)

    def push(self, step: int, tensors: Tensors, like: Sequence[Tensor] | None = None) -> None:
        """Copy a state in.

        Args:
            step: above the newest one's.
            tensors: the weights.
            like: tensors in whose type and on whose devices the copy is kept; None for those of the weights.

        Raises:
            ValueError: the step does not increase.
        """
        if self._kept and step <= self._kept[-1].step:
            raise ValueError(f"step {step} does not follow step {self._kept[-1].step}: push increasing steps")
        buffers = self._room(like or tensors)
        copy_(buffers, tensors)
        self._kept.append(Milestone(step, buffers))

    def nearest(self, step: float) -> Milestone:
        """The kept state whose step is nearest.

        Raises:
            ValueError: none is kept.
        """
        if not self._kept:
            raise ValueError("no milestone has been kept so far: push one first")
        return min(self._kept, key=lambda each: abs(each.step - step))

    def reset(self) -> None:
        """Forget all states."""
        self._kept.clear()

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor shares memory with a kept state."""
        place = tensor.untyped_storage().data_ptr()
        return any(place == each.untyped_storage().data_ptr() != 0 for one in self._kept for each in one.tensors)

    def _room(self, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Buffers for one more state: those of the state that goes, or new ones."""
        if len(self._kept) < self._count:
            return tuple(torch.empty_like(each, requires_grad=False) for each in like)
        inner = range(1, len(self._kept) - 1)
        gone = min(inner, key=lambda i: math.log((self._kept[i + 1].step + 1) / (self._kept[i - 1].step + 1)))
        return self._kept.pop(gone).tensors
