"""How a tensor is partitioned over ranks by rows: which rows this rank holds, and tensors partitioned alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from leapverify.core.shards import local


def held_rows(tensor: Tensor) -> slice:
    """Which rows (of dimension 0) of the whole tensor this rank holds.

    Raises:
        ValueError: it is cut along another dimension, or more than once.
    """
    cuts = _cuts(tensor)
    if not isinstance(tensor, DTensor) or not cuts:
        return slice(None)
    if len(cuts) > 1 or not tensor.placements[cuts[0]].is_shard(0):
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} is cut as {tensor.placements}: cut it by rows alone")
    mesh, rows = tensor.device_mesh, tensor.shape[0]
    each = -(-rows // mesh.size(cuts[0]))
    first = min(rows, mesh.get_local_rank(cuts[0]) * each)
    return slice(first, min(rows, first + each))


def first_element(tensor: Tensor) -> int:
    """The place of this rank's first element in the whole tensor, flat."""
    start = held_rows(tensor).start
    return 0 if start is None else int(start) * (tensor.numel() // max(1, tensor.shape[0]))


def partitioned_like(part: Tensor, like: Tensor) -> Tensor:
    """A tensor partitioned as another one is, from this rank's part, sharing memory; plain where the other one is."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def empty_part(like: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of this type to be filled, partitioned as another one is."""
    return partitioned_like(torch.empty_like(local(like), dtype=dtype), like)


def _cuts(tensor: Any) -> list[int]:
    """The dimensions of its mesh along which a tensor is cut."""
    if not isinstance(tensor, DTensor):
        return []
    return [number for number, place in enumerate(tensor.placements) if isinstance(place, Shard)]
