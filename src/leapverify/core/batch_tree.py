"""Batches as trees of tensors: mappings, sequences and objects that hold them, at any depth."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

DEPTH = 6
"""Levels that are looked into: objects may refer to one another in circles."""


def tensors_in(batch: Any) -> list[Tensor]:
    """The tensors of a batch: itself, or those in its fields, values or items, in their order."""
    return list(_tensors(batch, DEPTH))


def _tensors(batch: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
        return
    if depth:
        for part in _parts(batch):
            yield from _tensors(part, depth - 1)


def _parts(batch: Any) -> list[Any]:
    if isinstance(batch, Mapping):
        return list(batch.values())
    if isinstance(batch, tuple | list):
        return list(batch)
    return [getattr(batch, name) for name in _fields(batch)]


def _fields(batch: Any) -> list[str]:
    """Attributes that hold tensors, or containers that may."""
    if isinstance(batch, str | bytes | type | nn.Module) or callable(batch):
        return []
    names = getattr(batch, "__dataclass_fields__", None) or getattr(batch, "__dict__", {})
    return [name for name in names if isinstance(getattr(batch, name, None), Tensor | Mapping | tuple | list)]


def mapped(batch: Any, change: Callable[[Tensor], Tensor], depth: int = DEPTH) -> Any:
    """A batch of the same form around changed tensors; what holds none is handed on as it is."""
    if isinstance(batch, Tensor):
        return change(batch)
    if not depth:
        return batch
    if isinstance(batch, Mapping):
        return _refilled(batch, {name: mapped(value, change, depth - 1) for name, value in batch.items()})
    if isinstance(batch, tuple | list):
        items = [mapped(each, change, depth - 1) for each in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else items if isinstance(batch, list) else tuple(items)
    names = _fields(batch)
    out = copy.copy(batch) if names else batch
    for name in names:
        object.__setattr__(out, name, mapped(getattr(batch, name), change, depth - 1))
    return out


def _refilled(batch: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    out: Any = copy.copy(batch)
    try:
        for name, value in values.items():
            out[name] = value
    except TypeError:  # a mapping that cannot be written
        return values
    return out


def rows_of(batch: Any) -> int:
    """Examples in a batch: the length that most of its tensors have; of its items, where there is no tensor."""
    lengths = Counter(len(each) for each in tensors_in(batch) if each.dim())
    if lengths:
        return lengths.most_common(1)[0][0]
    return len(batch) if isinstance(batch, tuple | list) else 1


def cut(batch: Any, rows: int) -> Any:
    """The first examples of a batch: see `taken`."""
    return taken(batch, slice(rows))


def taken(batch: Any, rows: slice) -> Any:
    """Some examples of a batch; tensors of another length than most stay whole, objects with inner parts too."""
    if isinstance(batch, list) and not tensors_in(batch):
        return batch[rows]
    if any(not isinstance(getattr(batch, name), Tensor) for name in _object_fields(batch)):
        return batch
    count = rows_of(batch)
    return mapped(batch, lambda each: each[rows] if each.dim() and len(each) == count else each)


def _object_fields(batch: Any) -> list[str]:
    return [] if isinstance(batch, Tensor | Mapping | tuple | list) else _fields(batch)


def same_form(one: Any, other: Any) -> bool:
    """Whether what takes one batch may be expected to take the other: the same containers, names, types and ranks."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (one.dtype, one.dim()) == (other.dtype, other.dim())
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same_form(one[name], other[name]) for name in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(same_form(a, b) for a, b in zip(one, other, strict=True))
    names = _fields(one)
    return names == _fields(other) and all(same_form(getattr(one, name), getattr(other, name)) for name in names)
