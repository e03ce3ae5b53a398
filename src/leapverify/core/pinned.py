"""Page-locked host memory, out of which and into which an accelerator copies while the host goes on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNMENT = 256
"""Bytes to whose multiples tensors begin."""


def host_memory(like: Sequence[Tensor], dtype: torch.dtype | None = None, *, locked: bool = True) -> list[Tensor]:
    """Tensors in one block of host memory, page-locked where CUDA is in use, ordinary where it is not.

    One block for all of them, because torch rounds every page-locked allocation up to a power of two bytes: of a
    7-billion-parameter model's matrices nearly half would be air. `host_bytes` says what is left of that.

    Args:
        like: tensors whose shapes are taken; of any device, `meta` too.
        dtype: the type of all; None takes each one's.
        locked: page-locked, where there is CUDA.

    Returns:
        Contiguous tensors whose content is whatever was there.
    """
    kinds = [dtype or each.dtype for each in like]
    sizes = [each.numel() * kind.itemsize for each, kind in zip(like, kinds, strict=True)]
    block = torch.empty(sum(map(_aligned, sizes)), dtype=torch.uint8, pin_memory=locked and torch.cuda.is_available())
    pieces = torch.split(block, [_aligned(size) for size in sizes])
    return [
        piece[:size].view(kind).view(each.shape)
        for each, kind, size, piece in zip(like, kinds, sizes, pieces, strict=True)
    ]


def host_bytes(like: Sequence[Tensor], dtype: torch.dtype | None = None, *, locked: bool = True) -> int:
    """Bytes that `host_memory` takes: all tensors, aligned; a power of two where the memory is `locked`."""
    size = sum(_aligned(each.numel() * (dtype or each.dtype).itemsize) for each in like)
    return 1 << (size - 1).bit_length() if locked and size else size


@torch.no_grad()
def copy_ahead(out: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    """out = source, in place; the host does not wait where all of `out` is on CUDA devices.

    A source in page-locked memory must then not be written by the host before the devices have read it.
    """
    if out:
        torch._foreach_copy_(list(out), list(source), non_blocking=all(each.is_cuda for each in out))


def wait_for(tensors: Sequence[Tensor]) -> None:
    """Let the host wait for what has been asked of the devices that these tensors lie on."""
    for device in {each.device for each in tensors if each.device.type == "cuda"}:
        torch.cuda.current_stream(device).synchronize()


def wait_for_all() -> None:
    """Let the host wait for every CUDA device that is in use."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for number in range(torch.cuda.device_count()):
            torch.cuda.synchronize(number)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
