"""A few early states of a run, kept so that one lies near every share of its steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from leapverify.core.weights import Tensors, copy_
from leapverify.trajectory.snapshot import Buffers, Snapshot

MILESTONES = 12
"""Early states that are kept."""


class Milestones:
    """The first state and later ones, thinned so that they lie about evenly over the steps so far.

    Of `count` states the first and the newest always stay. Where room is needed, the state goes whose neighbours are
    nearest to one another. A gap made so is at most 2 / (count - 1) of all steps at that time, the mean over its
    choices: where states are pushed at least so often, one is kept within t / (count - 1) steps of every share of t.

    Args:
        count: states kept at most, at least 3.

    Raises:
        ValueError: fewer than 3.
    """

    def __init__(self, count: int = MILESTONES) -> None:
        if count < 3:
            raise ValueError(f"{count} milestones cannot be thinned: keep at least 3")
        self._count = count
        self._kept: list[Snapshot] = []
        self._buffers = Buffers()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(self._kept)

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
        if len(self._kept) == self._count:
            self._thin(step)
        buffers = self._buffers.take(
            lambda: tuple(torch.empty_like(each, requires_grad=False) for each in like or tensors)
        )
        copy_(buffers, tensors)
        self._kept.append(Snapshot(step, buffers))

    def nearest(self, step: float) -> Snapshot:
        """The kept state whose step is nearest.

        Raises:
            ValueError: none is kept.
        """
        if not self._kept:
            raise ValueError("no milestone has been kept so far: push one first")
        return min(self._kept, key=lambda each: abs(each.step - step))

    def reset(self) -> None:
        """Forget all states, keep the buffers."""
        while self._kept:
            self._buffers.give_back(self._kept.pop())

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor shares memory with a kept state."""
        return self._buffers.holds(tensor)

    def _thin(self, step: int) -> None:
        """Let the state go whose neighbours are nearest, that of the coming step being the newest one's."""
        steps = [*self.steps, step]
        gone = min(range(1, len(self._kept)), key=lambda i: steps[i + 1] - steps[i - 1])
        self._buffers.give_back(self._kept.pop(gone))
