"""Maths on lists of tensors: in place, without copies that a buffer could have held, summed in float64.

A list stands for one point in weight space: theta = (theta_1, ..., theta_P), each tensor of any shape. Two lists of
one call have the same length and the same shapes; devices and floating types may differ. Of tensors that are spread
over ranks these are the local parts; with their `Shards` sums go over all parts, each counted once, and every rank, at
the same point of its work, gets the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from leapverify.core.shards import Shards

Tensors: TypeAlias = Sequence[Float[Tensor, "..."]]
Index: TypeAlias = tuple[int | slice, ...]

CPU_BLOCK = 1 << 18
"""Elements of a block on a CPU: a handful of float32 blocks stays in its caches."""
ACCELERATOR_BLOCK = 1 << 24
"""Elements of a block on an accelerator: large enough that starting a kernel costs little beside running it."""


def block_size(device: torch.device) -> int:
    """Elements of a block on a device."""
    return CPU_BLOCK if device.type == "cpu" else ACCELERATOR_BLOCK


def blocks(shape: Sequence[int], limit: int) -> Iterator[Index]:
    """Indices that cut a tensor of this shape, of any strides, into blocks of at most `limit` elements.

    Args:
        shape: the tensor's shape; an empty tensor has no blocks, a scalar one.
        limit: elements, at least 1.

    Returns:
        Indices such that the `tensor[index]` are views, disjoint, and cover the tensor in order.
    """
    elements = math.prod(shape)
    if elements <= limit:
        if elements:
            yield ()
        return
    row = elements // shape[0]
    if row > limit:
        yield from ((i, *rest) for i in range(shape[0]) for rest in blocks(shape[1:], limit))
        return
    rows = limit // row
    yield from ((slice(start, start + rows),) for start in range(0, shape[0], rows))


def require_same_shapes(a: Tensors, b: Tensors, what: str) -> None:
    """Refuse lists that are not points of one weight space.

    Raises:
        ValueError: the lengths or a shape differ; `what` names the second list in the message.
    """
    if len(a) != len(b):
        raise ValueError(f"{what} has {len(b)} tensors where {len(a)} are needed: pass one per tensor, in order")
    for i, (left, right) in enumerate(zip(a, b, strict=True)):
        if left.shape != right.shape:
            raise ValueError(
                f"{what} has shape {tuple(right.shape)} at position {i} where {tuple(left.shape)} is needed: "
                "keep the tensors in the same order"
            )


@torch.no_grad()
def copy_(out: Tensors, source: Tensors) -> None:
    """out = source, in place; types and devices are converted. ValueError where lengths or shapes differ."""
    require_same_shapes(out, source, "source")
    if out:
        torch._foreach_copy_(list(out), list(source))


def dot(a: Tensors, b: Tensors, shards: Shards | None = None) -> float:
    """sum over all elements of a b, products and sums in float64.

    Args:
        a: tensors.
        b: tensors of the same shapes.
        shards: how they are spread over ranks, which then all call this; None: they are whole.

    Returns:
        The dot product; 0.0 for no elements.

    Raises:
        ValueError: lengths or shapes differ.
    """
    require_same_shapes(a, b, "b")
    return _reduce("dot product of weights", a, b, torch.dot, shards)


def norm(a: Tensors, shards: Shards | None = None) -> float:
    """Euclidean norm of all elements, in float64; `shards` as for `dot`."""
    return math.sqrt(dot(a, a, shards))


def distance(a: Tensors, b: Tensors, shards: Shards | None = None) -> float:
    """norm(a - b), differences and sums in float64; arguments and errors as for `dot`."""
    require_same_shapes(a, b, "b")
    return math.sqrt(_reduce("distance of weights", a, b, _squared_distance, shards))


@torch.no_grad()
def finite(tensors: Tensors) -> Bool[Tensor, ""]:
    """Whether no element is NaN or infinite, as a flag beside the first tensor: one read of the data, and the host does
    not wait for it."""
    extremes: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            # The extremes of a tensor are finite exactly if all of it is: NaN propagates to both.
            extremes.setdefault((tensor.device, tensor.dtype), []).extend(torch.aminmax(tensor))
    flags = [torch.isfinite(torch.stack(values)).all() for values in extremes.values()]
    if not flags:
        return torch.ones((), dtype=torch.bool)
    return flags[0] if len(flags) == 1 else torch.stack([flag.to(flags[0].device) for flag in flags]).all()


def all_finite(tensors: Tensors, shards: Shards | None = None) -> bool:
    """Whether no element is NaN or infinite; waits for the device once.

    Args:
        tensors: any number of them.
        shards: how they are spread over ranks, which then all call this and get the same answer; None: they are whole.
    """
    whole = bool(finite(tensors))
    return whole if shards is None else shards.all("finite weights", whole)


def trainable(model: nn.Module, include: Callable[[str], bool] | None = None) -> dict[str, nn.Parameter]:
    """The parameters that move: named, with gradient, tied ones once.

    Args:
        model: the model.
        include: keeps a parameter by its name; all are kept without it.

    Returns:
        Name -> parameter, in the order of `named_parameters()`.

    Raises:
        ValueError: nothing is left.
    """
    chosen = {
        name: parameter
        for name, parameter in model.named_parameters(remove_duplicate=True)
        if parameter.requires_grad and (include is None or include(name))
    }
    if not chosen:
        raise ValueError(
            f"no trainable parameter of {type(model).__name__} is left: set requires_grad or widen the filter"
        )
    return chosen


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    difference = a - b
    return torch.dot(difference, difference)


@torch.no_grad()
def _reduce(
    what: str, a: Tensors, b: Tensors, value: Callable[[Tensor, Tensor], Tensor], shards: Shards | None
) -> float:
    """Sum `value` over blocks of pairs, each block in float64; one host synchronisation."""
    if not a:
        return 0.0
    device = a[0].device
    sums = torch.stack([_pair(left, right, value).to(device) for left, right in zip(a, b, strict=True)])
    return float((sums if shards is None else shards.sum(what, sums)).sum())


def _pair(left: Tensor, right: Tensor, value: Callable[[Tensor, Tensor], Tensor]) -> Float64[Tensor, ""]:
    sums = []
    for index in blocks(left.shape, block_size(left.device)):
        x = left[index].reshape(-1).double()
        # First to the device, then to float64, so that the narrower type travels.
        y = x if right is left else right[index].reshape(-1).to(x.device).double()
        sums.append(value(x, y))
    return torch.stack(sums).sum() if sums else torch.zeros((), dtype=torch.float64, device=left.device)
