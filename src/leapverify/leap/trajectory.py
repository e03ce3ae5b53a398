"""The weights that a run moves, by name, and their history; noticed when the model changes under it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from leapverify.history import History
from leapverify.leap.optimizers import held_by
from leapverify.weights import trainable

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""Types of parameters that can be moved by a prediction."""


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
        ValueError: no trainable parameter, none that the optimizers hold, or some that are sharded, not initialised, or
            no real floating-point numbers.
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
        _refuse_lazy(model)
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

    def release(self) -> None:
        """Give the snapshots' memory back."""
        self.history = self.storage.history(self.tensors)

    def refresh(self) -> str | None:
        """Look the parameters up again; what has changed, in words, if anything has: the history then begins anew."""
        self.parameters = self._look_up()
        signature = _signature(self.parameters)
        change = _difference(self._signature, signature)
        self._signature = signature
        if change is None:
            return None
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
        other = next((name for name, each in found.items() if each.dtype not in FLOATS), None)
        if other is not None:
            raise ValueError(
                f"parameter {other} is of type {found[other].dtype}, which is not predicted: leave it out with "
                f"include=lambda name: name != {other!r}"
            )
        return found


def _refuse_lazy(model: nn.Module) -> None:
    lazy = next((name for name, each in model.named_parameters() if is_lazy(each)), None)
    lazy = lazy or next((name for name, each in model.named_buffers() if is_lazy(each)), None)
    if lazy is not None:
        raise ValueError(
            f"{lazy} of {type(model).__name__} is not initialised yet: run one forward pass first, then build the "
            "optimizer and this"
        )


def _plain(name: str) -> str:
    """A parameter's name without what torch.compile and DistributedDataParallel put before it."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


@dataclass(frozen=True, eq=False)
class _Form:
    """What a parameter is, and which: another one of the same shape is another model."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    which: weakref.ref[nn.Parameter]
    """Not its id alone, which a later parameter may take over."""

    @classmethod
    def of(cls, parameter: nn.Parameter) -> _Form:
        """The form of a parameter as it is now."""
        return cls(tuple(parameter.shape), parameter.dtype, parameter.device, weakref.ref(parameter))

    def like(self, other: _Form) -> bool:
        """Whether shape, type and device are the same."""
        return (self.shape, self.dtype, self.device) == (other.shape, other.dtype, other.device)


Signature = dict[str, _Form]


def _signature(parameters: dict[str, nn.Parameter]) -> Signature:
    return {name: _Form.of(each) for name, each in parameters.items()}


def _difference(before: Signature, after: Signature) -> str | None:
    """What has changed, in words; None if nothing has."""
    both = [name for name in after if name in before]
    alike = {name for name in both if before[name].like(after[name])}
    changes = (
        ([name for name in before if name not in after], "no longer moves", "no longer move"),
        ([name for name in after if name not in before], "moves now that did not", "move now that did not"),
        ([name for name in both if name not in alike], "has another form", "have another form"),
        (
            [n for n in both if n in alike and before[n].which() is not after[n].which()],
            "was replaced",
            "were replaced",
        ),
    )
    parts = [
        f"parameter {names[0]} {one}" if len(names) == 1 else f"{len(names)} parameters {many} ({names[0]} ...)"
        for names, one, many in changes
        if names
    ]
    if not parts and list(before) != list(after):
        return "the order of the parameters"
    return "; ".join(parts) or None
