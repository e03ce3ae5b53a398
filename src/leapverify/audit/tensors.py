"""Tensors in files, a piece at a time: numbers that are not finite, and samples to compare runs by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

PIECE = 1 << 22
"""Elements that are looked at in one go, at least a row."""
SAMPLED = 1 << 16
"""Elements of each tensor by which two runs are compared."""


def nonfinite(path: Path) -> tuple[str, int] | None:
    """The first tensor of a safetensors file that holds NaN or infinity, and how many of its elements do.

    Args:
        path: the file; its memory is bounded by `PIECE`, whatever its size.

    Raises:
        SafetensorError, OSError: it is no safetensors file.
    """
    with safe_open(path, framework="pt") as handle:
        names = list(handle.keys())
        for name in names:
            count = sum(_wrong(piece) for piece in _pieces(handle, name))
            if count:
                return name, count
    return None


def _wrong(piece: Tensor) -> int:
    return int((~torch.isfinite(piece)).sum()) if piece.is_floating_point() else 0


def _pieces(handle: Any, name: str) -> Iterator[Tensor]:
    whole = handle.get_slice(name)
    shape = whole.get_shape()
    if not shape:
        yield handle.get_tensor(name)
        return
    rows = _rows(shape, PIECE)
    for start in range(0, shape[0], rows):
        yield whole[start : start + rows]


def _rows(shape: list[int], elements: int) -> int:
    row = 1
    for size in shape[1:]:
        row *= size
    return max(1, elements // max(1, row))


def samples(path: Path) -> dict[str, Tensor]:
    """The first rows of every floating-point tensor of a file, less their mean, (n,) float64; {} if it cannot be read.

    A tensor without spread, such as the weights of an untrained normalisation, says nothing and is left out.
    """
    found = {}
    try:
        with safe_open(path, framework="pt") as handle:
            names = list(handle.keys())
            for name in names:
                whole = handle.get_slice(name)
                shape = whole.get_shape()
                first = whole[: _rows(shape, SAMPLED)] if shape else handle.get_tensor(name)
                if first.is_floating_point():
                    flat = first.flatten()[:SAMPLED].double()
                    if flat.numel() > 1 and float(flat.std()) > 0.0:
                        found[name] = flat - flat.mean()
    except (SafetensorError, OSError):
        return {}
    return found


def correlation(a: dict[str, Tensor], b: dict[str, Tensor]) -> float | None:
    """<a, b> / (|a| |b|) over the tensors that both have, in [-1, 1]; None where they have none."""
    names = [name for name in a if name in b and a[name].shape == b[name].shape]
    if not names:
        return None
    inner = sum(float(a[name] @ b[name]) for name in names)
    norms = [sum(float(each[name] @ each[name]) for name in names) for each in (a, b)]
    return inner / (norms[0] * norms[1]) ** 0.5 if min(norms) > 0.0 else None
