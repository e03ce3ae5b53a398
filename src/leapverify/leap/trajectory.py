"""The weights that a run moves, by name, and their history; noticed when the model changes under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leapverify.history import History
from leapverify.leap.optimizers import held_by
from leapverify.weights import trainable


@dataclass(frozen=True)
class Storage:
    """Where snapshots lie, and in which type."""

    snapshots: int
    dtype: torch.dtype = torch.float32
    device: str | None = None
    """None: beside the weights; `cpu`: host memory, pinned where an accelerator is in use."""

    @property
    def pinned(self) -> bool:
        """Whether snapshots lie in page-locked memory."""
        return self.device == "cpu" and torch.cuda.is_available()

    def history(self, parameters: Sequence[Tensor]) -> History:
        """An empty history of such snapshots."""
        return History(parameters, self.snapshots, dtype=self.dtype, device=self.device, pinned=self.pinned)


class Trajectory:
    """The parameters that predictions move, looked up anew at every checkpoint, and their snapshots.

    Args:
        model: the model.
        optimizers: what they do not hold is not trained and not predicted.
        include: keeps a parameter by its name.
        storage: of the history.

    Raises:
        ValueError: no trainable parameter, none that the optimizers hold, or sharded ones.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        include: Callable[[str], bool] | None,
        storage: Storage,
    ) -> None:
        self._model, self._optimizers, self._include = model, optimizers, include
        self.storage = storage
        self.parameters = self._look_up()
        self._signature = _signature(self.parameters)
        self.history = storage.history(self.tensors)

    @property
    def tensors(self) -> list[nn.Parameter]:
        """The parameters in order."""
        return list(self.parameters.values())

    @property
    def elements(self) -> int:
        """Numbers in all of them."""
        return sum(each.numel() for each in self.tensors)

    @property
    def device(self) -> torch.device:
        """Where the first parameter lies."""
        return self.tensors[0].device

    def refresh(self) -> str | None:
        """Look the parameters up again; what has changed, in words, if anything has: the history then begins anew."""
        self.parameters = self._look_up()
        signature = _signature(self.parameters)
        if signature == self._signature:
            return None
        change = _difference(self._signature, signature)
        self._signature = signature
        self.history = self.storage.history(self.tensors)
        return change

    def _look_up(self) -> dict[str, nn.Parameter]:
        held = held_by(self._optimizers)
        moving = trainable(self._model, self._include)
        found = {_plain(name): parameter for name, parameter in moving.items() if id(parameter) in held}
        if not found:
            names = ", ".join(type(each).__name__ for each in self._optimizers)
            raise ValueError(
                f"{names} holds none of the {len(moving)} trainable parameters of {type(self._model).__name__}: pass "
                "the optimizer that was built with this model's parameters"
            )
        sharded = next((name for name, each in found.items() if hasattr(each, "to_local")), None)
        if sharded is not None:
            raise ValueError(
                f"parameter {sharded} is sharded over processes, which is not served: gather the model first"
            )
        return found


def _plain(name: str) -> str:
    """A parameter's name without what torch.compile and DistributedDataParallel put before it."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


Signature = dict[str, tuple[Any, ...]]


def _signature(parameters: dict[str, nn.Parameter]) -> Signature:
    return {name: (tuple(each.shape), each.dtype, each.device) for name, each in parameters.items()}


def _difference(before: Signature, after: Signature) -> str:
    gone = [name for name in before if name not in after]
    new = [name for name in after if name not in before]
    other = [name for name in after if name in before and before[name] != after[name]]
    parts = [
        f"{len(names)} parameters {what} ({names[0]}{' ...' if len(names) > 1 else ''})"
        for names, what in ((gone, "no longer move"), (new, "move now that did not"), (other, "have another form"))
        if names
    ]
    return "; ".join(parts) or "the order of the parameters"
