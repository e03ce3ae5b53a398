"""A hash of everything in a saved state: what `torch.save` wrote loads without a word when a bit has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of an element -> integers of that size."""


def sum_of(state: Any) -> str:
    """The sha256 of a state's plain values and of each tensor's type, shape and sum of bits.

    A tensor is summed where it lies, its elements taken for integers, modulo 2^64: no single wrong bit leaves that sum
    as it was, whatever the type. Lists count as tuples and the order of keys does not, since savers change both.

    Args:
        state: mappings, lists, tensors of any device, numbers and texts, as `state_dict` gives them.
    """
    sha = hashlib.sha256()
    for path, value in _leaves(state, ""):
        sha.update(f"{path}={value}\n".encode())
    return sha.hexdigest()


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _leaves(value[key], f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _leaves(each, f"{path}/{index}")
        yield f"{path}/", str(len(value))
    elif isinstance(value, Tensor):
        yield path, f"{value.dtype} {tuple(value.shape)} {_bits(value)}"
    else:
        yield path, repr(value)


def _bits(tensor: Tensor) -> int:
    plain = tensor.detach()
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    if plain.device.type == "meta" or plain.numel() == 0:
        return 0
    return int(plain.contiguous().view(_WHOLE[plain.element_size()]).sum(dtype=torch.int64))
