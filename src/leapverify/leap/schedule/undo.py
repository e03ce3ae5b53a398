"""Schedulers and optimizers put back to the very values that they held before they were moved."""

from __future__ import annotations

import types
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def register_undo(schedulers: Sequence[Any], optimizers: Sequence[Any], undo: ExitStack) -> None:
    """Register with `undo` what puts schedulers and optimizers back, object by object, to the values they hold now.

    Args:
        schedulers: without the wrappers of a framework; the schedulers inside them are found.
        optimizers: without wrappers too; the states of their parameters are left alone.
        undo: on leaving it, everything is put back.
    """
    seen: set[int] = set()
    for optimizer in optimizers:
        _keep(vars(optimizer), undo)
        for group in optimizer.param_groups:
            _descend(group, undo, seen)
    for scheduler in schedulers:
        _descend(scheduler, undo, seen)


class GroupUndo:
    """Puts back the entries of a parameter group that are changed until `close`; later changes by others stay.

    Args:
        held: the group.
    """

    def __init__(self, held: dict[str, Any]) -> None:
        self._held, self._before = held, dict(held)
        self._contents = {name: each.detach().clone() for name, each in held.items() if isinstance(each, Tensor)}
        self._changed: list[str] = []

    def close(self) -> None:
        """Take note of what has been changed."""
        names = dict.fromkeys([*self._before, *self._held])
        self._changed = [name for name in names if not self._is_as_before(name)]

    def restore(self) -> None:
        """Put back what was changed before `close`; tensors in place."""
        for name in self._changed:
            if name not in self._before:
                self._held.pop(name, None)
                continue
            self._held[name] = self._before[name]
            if name in self._contents:
                self._held[name].data.copy_(self._contents[name])

    def _is_as_before(self, name: str) -> bool:
        if name not in self._before or name not in self._held or self._held[name] is not self._before[name]:
            return False
        return name not in self._contents or torch.equal(self._held[name], self._contents[name])


def _keep(held: dict[Any, Any] | list[Any], undo: ExitStack) -> None:
    before: Any = held.copy()

    def restore() -> None:
        held.clear()
        held.update(before) if isinstance(held, dict) else held.extend(before)

    undo.callback(restore)


def _descend(value: Any, undo: ExitStack, seen: set[int]) -> None:
    """Keep what lists, dicts, tensors, schedulers and callable objects hold; anything else is a value, or not ours."""
    if id(value) in seen or isinstance(value, nn.Parameter | nn.Module | Optimizer):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        content, data = value.detach().clone(), value.data
        undo.callback(lambda: data.copy_(content))
    elif isinstance(value, list | tuple):
        if isinstance(value, list):
            _keep(value, undo)
        for each in value:
            _descend(each, undo, seen)
    elif isinstance(value, dict):
        _keep(value, undo)
        for name, each in value.items():
            if name != "params":
                _descend(each, undo, seen)
    elif _is_stateful(value):
        _descend(vars(value), undo, seen)


def _is_stateful(value: Any) -> bool:
    """Schedulers and the callable objects that they read, such as a LambdaLR's; no classes, functions or modules."""
    if isinstance(value, type | types.ModuleType | types.FunctionType | types.MethodType | types.BuiltinFunctionType):
        return False
    return hasattr(value, "__dict__") and (callable(value) or callable(getattr(value, "step", None)))
