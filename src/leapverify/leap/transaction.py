"""Weights that are tried: they stay if the leap is accepted, and come back bit for bit if it is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from leapverify.core.weights import copy_
from leapverify.trajectory.history import History


class Transaction:
    """Inside the block anything may be written into the parameters; without `commit` they come back bit-identical.

    A leap writes weights only. Buffers, moments, random streams, modes, the gradient scaler and the schedule are not
    touched before a leap is accepted, so they need no restoring. Values are written in place, through `Tensor.data`:
    a compiled model is not compiled again, and a graph that waits for its backward pass stays valid.

    Args:
        parameters: tensors that are written.
        kept: their present values, in a type that holds them exactly.
        before: called before every write: sharded modules must not hold gathered weights then.

    Example:
        >>> weight = torch.zeros(2)
        >>> with Transaction([weight], [weight.clone()]) as transaction:
        ...     tried = transaction.target[0].fill_(7.0)
        >>> weight.tolist()
        [0.0, 0.0]
    """

    def __init__(
        self, parameters: Sequence[Tensor], kept: Sequence[Tensor], before: Callable[[], None] = lambda: None
    ) -> None:
        self._parameters = [parameter.data for parameter in parameters]
        self._before = before
        self.kept = kept
        self.committed = False

    @property
    def target(self) -> list[Tensor]:
        """The tensors to write into, right away: ask for them again after every forward pass."""
        self._before()
        return self._parameters

    def restore(self) -> None:
        """Put the kept values back now; the transaction goes on.

        Where all at once fails (memory for conversions or transfers may be what ran out), one tensor after the other.
        """
        self._before()
        try:
            copy_(self._parameters, self.kept)
        except Exception:
            for parameter, kept in zip(self._parameters, self.kept, strict=True):
                parameter.copy_(kept)

    def commit(self) -> None:
        """Keep what the parameters hold now."""
        self.committed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An exception undoes a commit as well: whatever follows a leap is part of it.
        if not self.committed or kind is not None:
            self.restore()


def exact_in(parameters: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Whether snapshots of this type hold every parameter without rounding."""
    wide = dtype == torch.float32
    return all(each.dtype == dtype or (wide and each.dtype in (torch.bfloat16, torch.float16)) for each in parameters)


def kept_values(parameters: Sequence[Tensor], history: History, dtype: torch.dtype) -> Sequence[Tensor]:
    """The newest snapshot where it is exact, and an exact copy of the parameters otherwise.

    Args:
        parameters: theta_t.
        history: its newest snapshot was taken of these very values.
        dtype: the type of its snapshots.
    """
    if len(history) and exact_in(parameters, dtype):
        return history[-1].tensors
    return [parameter.detach().clone() for parameter in parameters]
