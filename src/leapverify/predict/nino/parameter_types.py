"""Which of NiNo's types a tensor is, from its name and shape: the joint matrices of attention fall into parts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache

from torch import Tensor

from leapverify.trajectory.context import Layout

logger = logging.getLogger(__name__)


class ParameterType(IntEnum):
    """NiNo's types of edges, rows of its embedding."""

    LINEAR = 1
    BIAS = 2
    CONVOLUTION = 3
    NORM = 4
    TOKEN_EMBEDDING = 5
    POSITION_EMBEDDING = 6
    QUERY = 7
    KEY = 8
    VALUE = 9
    RESIDUAL = 10
    HEAD = 11
    LOOP = 13


@dataclass(frozen=True)
class TypedSlice:
    """A tensor of the history, or a slice of it along one dimension."""

    position: int
    kind: ParameterType
    dim: int = 0
    start: int = 0
    length: int | None = None
    """None: the whole tensor."""

    def of(self, tensor: Tensor) -> Tensor:
        """This part of the tensor, a view."""
        return tensor if self.length is None else tensor.narrow(self.dim, self.start, self.length)


ATTENTION = (ParameterType.QUERY, ParameterType.KEY, ParameterType.VALUE)
MATRICES = {
    ParameterType.TOKEN_EMBEDDING: ("wte.weight", "embed_tokens.weight", "embed_in.weight"),
    ParameterType.POSITION_EMBEDDING: ("wpe.weight",),
    ParameterType.QUERY: ("self_attn.q_proj.weight",),
    ParameterType.KEY: ("self_attn.k_proj.weight",),
    ParameterType.VALUE: ("self_attn.v_proj.weight",),
    ParameterType.LINEAR: (
        "attn.c_proj.weight",
        "mlp.c_fc.weight",
        "mlp.c_proj.weight",
        "self_attn.o_proj.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
        "attention.dense.weight",
        "mlp.dense_h_to_4h.weight",
        "mlp.dense_4h_to_h.weight",
        "lm_head.weight",
        "embed_out.weight",
    ),
}
"""Ends of the names of matrices in models shaped like GPT-2, Llama, Qwen2 and Pythia."""


def typed_slices(position: int, name: str, shape: Sequence[int], heads: int | None) -> tuple[TypedSlice, ...] | None:
    """The typed parts of a tensor that together cover it; None: this tensor is none that NiNo knows.

    Args:
        position: of the tensor in the history.
        name: of the parameter.
        shape: of the parameter.
        heads: of the model's attention, which cut Pythia's joint matrix.
    """
    if len(shape) == 1 and name.endswith((".weight", ".bias")):
        return (TypedSlice(position, ParameterType.NORM if name.endswith(".weight") else ParameterType.BIAS),)
    if len(shape) != 2:
        return None
    if name.endswith("attn.c_attn.weight"):
        return _thirds(position, shape)
    if name.endswith("attention.query_key_value.weight"):
        return _by_head(position, shape[0], heads)
    kind = next((kind for kind, ends in MATRICES.items() if name.endswith(ends)), None)
    return None if kind is None else (TypedSlice(position, kind),)


def _thirds(position: int, shape: Sequence[int]) -> tuple[TypedSlice, ...] | None:
    """Query, key and value of GPT-2, side by side along the outputs; which side that is, the shape tells."""
    dim = int(shape[1] == 3 * shape[0])
    length = shape[1 - dim]
    if not length or shape[dim] != 3 * length:
        return None
    return tuple(TypedSlice(position, kind, dim, i * length, length) for i, kind in enumerate(ATTENTION))


def _by_head(position: int, outputs: int, heads: int | None) -> tuple[TypedSlice, ...] | None:
    """Query, key and value of Pythia, one head after another."""
    if not heads or not outputs or outputs % (3 * heads):
        return None
    length = outputs // (3 * heads)
    return tuple(TypedSlice(position, ATTENTION[i % 3], 0, i * length, length) for i in range(3 * heads))


def fallback(position: int, shape: Sequence[int]) -> tuple[TypedSlice]:
    """A tensor that NiNo does not know, typed by its shape alone."""
    by_dimensions = {2: ParameterType.LINEAR, 4: ParameterType.CONVOLUTION}
    return (TypedSlice(position, by_dimensions.get(len(shape), ParameterType.BIAS)),)


def per_parameter(layout: Layout, shapes: Sequence[Sequence[int]]) -> list[TypedSlice]:
    """The parts of all tensors for the per-parameter form; what is not known goes by its shape, and the log says so."""
    found: list[TypedSlice] = []
    unknown = []
    for position, (name, shape) in enumerate(zip(layout.names, shapes, strict=True)):
        known = typed_slices(position, name, shape, layout.heads)
        if known is None:
            unknown.append(name)
        found += known or fallback(position, shape)
    if unknown:
        warn_once(f"NiNo does not know {listed(unknown)}: typed by shape, as fully connected or as biases")
    return found


def held_slices(
    found: Sequence[TypedSlice], starts: Sequence[Sequence[int]], shapes: Sequence[Sequence[int]]
) -> list[TypedSlice]:
    """What a rank holds of the parts of whole tensors, counted within what it holds.

    Args:
        found: parts of the whole tensors.
        starts: where this rank's piece of each tensor begins, along each dimension.
        shapes: of this rank's pieces.
    """
    clipped = []
    for part in found:
        if part.length is None:
            clipped.append(part)
            continue
        origin, size = starts[part.position][part.dim], shapes[part.position][part.dim]
        begin, end = max(part.start - origin, 0), min(part.start + part.length - origin, size)
        if begin < end:
            clipped.append(replace(part, start=begin, length=end - begin))
    return clipped


def listed(names: Sequence[str]) -> str:
    """Some names, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


@cache
def warn_once(message: str) -> None:
    """Warn of something once per process."""
    logger.warning(message)
