"""Element-wise formulas over large tensors, block by block, so that intermediate values never leave the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from leapverify.core.weights import block_size, blocks
from leapverify.predict.predictor import Request

Kernel: TypeAlias = Callable[[Tensor, Sequence[Tensor], "Workspace"], None]
"""Writes its first argument from float32 blocks of the same shape; may use the workspace's."""


class Workspace:
    """Float32 blocks on one device, allocated when first asked for: all the memory that a prediction adds.

    Args:
        tensors: the tensors that are written, on whose device all is computed wherever the inputs lie; blocks are no
            larger than the largest of them.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.device = tensors[0].device
        self.limit = block_size(self.device)
        # Whole rows of 64, so that a block also holds the bits of `random`, drawn 64 at a time.
        self._elements = -(-min(self.limit, max(each.numel() for each in tensors)) // 64) * 64
        self._blocks: dict[str, Tensor] = {}

    def flat(self, slot: str, elements: int) -> Tensor:
        """The first elements of the block of this name; its content is whatever was left in it."""
        if slot not in self._blocks:
            self._blocks[slot] = torch.empty(self._elements, device=self.device)
        return self._blocks[slot][:elements]

    def like(self, slot: str, piece: Tensor) -> Tensor:
        """The block of this name, in the shape of a piece."""
        return self.flat(slot, piece.numel()).view(piece.shape)

    def load(self, slot: str, piece: Tensor) -> Tensor:
        """The piece itself if it is float32 on this device, otherwise its values in the block of this name."""
        if piece.dtype == torch.float32 and piece.device == self.device:
            return piece
        # Out of host memory the copy takes its place in the device's queue and the host goes on; the narrower type
        # travels. The other way round the host must wait, for it reads at once.
        return self.like(slot, piece).copy_(piece, non_blocking=piece.device.type == "cpu")


def apply(kernel: Kernel, out: Tensor, inputs: Sequence[Tensor], workspace: Workspace) -> None:
    """out = kernel(inputs), block by block, computed in float32 on the workspace's device.

    Args:
        kernel: the formula.
        out: tensor that is written; any floating type, strides and device.
        inputs: tensors of the same shape, likewise.
        workspace: blocks for intermediate values and conversions.
    """
    for index in blocks(out.shape, workspace.limit):
        pieces = [workspace.load(f"input {i}", each[index]) for i, each in enumerate(inputs)]
        target = out[index]
        if target.dtype == torch.float32 and target.device == workspace.device:
            kernel(target, pieces, workspace)
        else:
            result = workspace.like("out", target)
            kernel(result, pieces, workspace)
            target.copy_(result)


def reduce(
    what: str,
    value: Callable[[Sequence[Tensor], Workspace], Tensor],
    count: int,
    inputs: Sequence[Sequence[Tensor]],
    request: Request,
) -> list[list[float]]:
    """Sums over each tensor, added up over its blocks in float64; one host synchronisation for all of them.

    Args:
        what: a name for the sums.
        value: gives the sums of one block, shape (n,), from float32 blocks of the inputs.
        count: n.
        inputs: lists of tensors, the same shapes in each, this rank's parts where they are spread over ranks.
        request: what is to be predicted; the sums are taken on its device, and over all of its ranks.

    Returns:
        n sums for each whole tensor; 0 for one without elements.
    """
    workspace = Workspace(request.out)
    sums = torch.zeros(len(request.out), count, dtype=torch.float64, device=workspace.device)
    for total, *tensors in zip(sums, *inputs, strict=True):
        parts = [
            value([workspace.load(f"input {i}", each[index]) for i, each in enumerate(tensors)], workspace)
            for index in blocks(tensors[0].shape, workspace.limit)
        ]
        if parts:
            total.copy_(torch.stack(parts).double().sum(0))
    return request.over_ranks(what, sums).tolist()
