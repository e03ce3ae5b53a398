"""A recorded run as a source of weights, whoever wrote it and in whatever format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from leapverify.trajectory.optimizer_state import OptimizerState


@dataclass(frozen=True)
class Lineage:
    """Where a trajectory comes from, as far as it is known."""

    origin: str
    """Path or address of what was read."""
    format: str
    """How it was written, in words."""
    seed: int | None = None
    """Of the run."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else is known, as plain data: preset, text, schedule, versions ..."""


@runtime_checkable
class TrajectorySource(Protocol):
    """A recorded run, read only. Whoever reads it does not know its format.

    A source may read a tensor only when it is asked for: a reader that needs little memory takes one name at a time out
    of `weights(step)`, and keeps no tensor longer than it has to.

    >>> import torch
    >>> class Line:
    ...     steps = (10, 20, 30)
    ...     lineage = Lineage("here", "a straight line")
    ...     def weights(self, step):
    ...         return {"w": torch.full((2,), float(step))}
    ...     def optimizer(self, step):
    ...         return None
    >>> isinstance(Line(), TrajectorySource)
    True
    """

    @property
    def steps(self) -> Sequence[int]:
        """The optimizer steps after which weights were kept, ascending."""
        ...

    @property
    def lineage(self) -> Lineage:
        """Where it comes from."""
        ...

    def weights(self, step: int) -> Mapping[str, Tensor]:
        """The weights after a step, on the CPU, by name; the names come in the same order at every step.

        Raises:
            Damaged: they are missing, incomplete or altered.
        """
        ...

    def optimizer(self, step: int) -> OptimizerState | None:
        """Adam's state after a step, its tensors in the order of the names of `weights(step)`; None: it was not kept.

        Raises:
            Damaged: it is incomplete or altered.
        """
        ...
