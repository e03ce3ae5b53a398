"""What a rank holds of tensors that are spread over several: local parts, and sums over all parts that count each once.

Plain tensors (one process, DistributedDataParallel) are whole on every rank. A DTensor (fully_shard, tensor parallel)
is held in parts, along some dimensions of its mesh in different ones and along others in copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from leapverify.core.ranks import Ranks

Value = TypeVar("Value")


def local(tensor: Tensor) -> Tensor:
    """The part that this rank holds, sharing memory, outside of any graph; a plain tensor is its own part."""
    if isinstance(tensor, DTensor):
        return tensor.to_local().detach()
    return tensor.detach() if tensor.requires_grad else tensor


def is_spread(tensors: Sequence[Tensor]) -> bool:
    """Whether any tensor is a DTensor."""
    return any(isinstance(each, DTensor) for each in tensors)


def reshard(model: nn.Module) -> None:
    """Have every `fully_shard` module hold its shards only.

    After a forward pass without gradients the root's parameters are plain, gathered tensors; what is written then is
    lost without a word.
    """
    for module in model.modules():
        if (give_back := getattr(module, "reshard", None)) is not None and hasattr(module, "unshard"):
            give_back()


class Whole(nn.Module):
    """Runs any function of a model as its own forward pass.

    Whatever gathers parameters around the forward pass of its outermost module (fully_shard, DistributedDataParallel)
    then does so around losses and fingerprints too, which call parts of the model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, call: Callable[[nn.Module], Value]) -> Value:
        """What the function gives for the model."""
        return call(self.model)


@dataclass(frozen=True)
class Shards:
    """How a list of tensors is spread over the ranks.

    `counted` says of each tensor whether this rank's part goes into sums: of several ranks that hold copies of one
    part, one does.
    """

    ranks: Ranks = field(default_factory=Ranks)
    counted: tuple[bool, ...] = ()
    elements: tuple[int, ...] = ()
    """Of each whole tensor."""
    shapes: tuple[tuple[int, ...], ...] = ()
    """Of each whole tensor."""
    starts: tuple[tuple[int, ...], ...] = ()
    """Where this rank's part of each begins, along each dimension of the whole."""
    parts: bool = False
    """Whether any tensor is held in parts."""

    @classmethod
    def of(cls, tensors: Sequence[Tensor], ranks: Ranks) -> Shards:
        """How these tensors lie; every rank calls it at the same point.

        Raises:
            ValueError: a tensor holds partial sums.
            RanksDivergedError: the tensors differ between ranks.
        """
        for position, each in enumerate(tensors):
            if isinstance(each, DTensor) and any(place.is_partial() for place in each.placements):
                raise ValueError(
                    f"tensor {position} of shape {tuple(each.shape)} holds partial sums ({each.placements}): shard or "
                    "replicate parameters"
                )
        ranks.assert_same("shapes", [tuple(each.shape) for each in tensors], "the list of parameters and their shapes")
        lowest = ranks.all_gather("meshes", [_lowest_rank(each) for each in tensors])
        counted = tuple(
            _lowest_rank(each) == min(at[position] for at in lowest) and _is_first_copy(each, ranks.rank)
            for position, each in enumerate(tensors)
        )
        parts = any(isinstance(each, DTensor) and _is_cut(each) for each in tensors)
        shapes = tuple(tuple(each.shape) for each in tensors)
        elements = tuple(each.numel() for each in tensors)
        return cls(ranks, counted, elements, shapes, tuple(map(_start, tensors)), parts)

    def sum(self, place: str, values: Tensor) -> Tensor:
        """Sum over all parts of every tensor, each counted once, in float64; the same bits on every rank.

        Args:
            place: of the meeting.
            values: (P, ...), what each of the P tensors' local parts gave.
        """
        if self.ranks.alone:
            return values.double()
        keep = torch.tensor(self.counted, device=values.device).reshape(-1, *(1 for _ in values.shape[1:]))
        return self.ranks.sum(place, torch.where(keep, values.double(), 0.0))

    def all(self, place: str, so: bool) -> bool:
        """Whether it is so on every rank."""
        return not self.ranks.any(place, not so)


def _lowest_rank(tensor: Tensor) -> int:
    """The lowest rank of the mesh that holds the tensor; of a plain tensor 0, for every rank holds it."""
    return int(tensor.device_mesh.mesh.min()) if isinstance(tensor, DTensor) else 0


def _is_first_copy(tensor: Tensor, rank: int) -> bool:
    if not isinstance(tensor, DTensor):
        return rank == 0
    mesh = tensor.device_mesh
    return all(
        mesh.get_local_rank(dimension) == 0 for dimension, place in enumerate(tensor.placements) if place.is_replicate()
    )


def _start(tensor: Tensor) -> tuple[int, ...]:
    if not isinstance(tensor, DTensor):
        return (0,) * tensor.dim()
    pieces = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]
    if len(pieces) != 1:
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)} lies on this rank in {len(pieces)} pieces ({tensor.placements}): "
            "shard it in one piece a rank"
        )
    return tuple(pieces[0].offsets)


def _is_cut(tensor: DTensor) -> bool:
    return any(not place.is_replicate() for place in tensor.placements)
