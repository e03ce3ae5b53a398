"""Laying probes out in rows, so that next to no padded position is computed.

Packed rows hold several probes each; positions restart and attention stays inside a probe, so every probe sees what it
would see alone. Where a model takes no such mask, probes of equal length share a batch instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PAD = 0
"""Token id in positions that belong to no probe."""


@dataclass(frozen=True)
class ProbeBatch:
    """One forward pass: its inputs, and where in them each probe lies."""

    inputs: Tensor
    """(rows, T) token ids, or (rows, ...) features."""
    probes: tuple[int, ...]
    """Indices of the probes in this batch, in the order of `gather`."""
    gather: Int[Tensor, " positions"]
    """Flat positions (row * T + column) to pool, probe after probe."""
    offsets: Int[Tensor, " probes"]
    """Where in `gather` each probe begins."""
    segments: Int[Tensor, "rows T"] | None = None
    """For packed rows: number of the probe in its row, -1 where there is none."""
    positions: Int[Tensor, "rows T"] | None = None
    """For packed rows: position ids that restart with every probe."""
    masks: dict[torch.dtype, Tensor] = field(default_factory=dict, compare=False, repr=False)
    """For packed rows: attention masks by type, made on first use, for they are the same at every checkpoint."""

    def mask(self, dtype: torch.dtype) -> Float[Tensor, "rows 1 T T"]:
        """The additive attention mask of packed rows: every probe sees itself alone."""
        assert self.segments is not None
        if dtype not in self.masks:
            self.masks[dtype] = additive_mask(block_causal_mask(self.segments), dtype)
        return self.masks[dtype]

    def to(self, device: torch.device) -> ProbeBatch:
        """The same batch with its tensors on a device."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved, masks={})


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Share out items among rows: the longest first, each into the first row with room.

    Args:
        lengths: length of each item, tokens.
        capacity: length of a row, tokens; at least the longest item.

    Returns:
        Indices of the items in each row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = next((row for row, left in enumerate(room) if lengths[item] <= left), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(capacity)
        rows[row].append(item)
        room[row] -= lengths[item]
    return rows


def best_rows(lengths: Sequence[int]) -> list[list[int]]:
    """The packing that computes the fewest positions with rows between one and two times the longest item.

    Longer rows would waste still less on padding but more on attention between probes that do not see one another.
    """
    longest = max(lengths)
    candidates = (first_fit_decreasing(lengths, capacity) for capacity in range(longest, 2 * longest + 1))
    return min(candidates, key=lambda rows: len(rows) * max(sum(lengths[i] for i in row) for row in rows))


def packed(tokens: Sequence[Int[Tensor, " _"]], batch_tokens: int) -> Iterator[ProbeBatch]:
    """Several probes to a row, rows filled by `best_rows`, at most about `batch_tokens` positions to a batch."""
    lengths = [len(probe) for probe in tokens]
    rows = best_rows(lengths)
    width = max(sum(lengths[i] for i in row) for row in rows)
    per_batch = max(1, batch_tokens // width)
    for start in range(0, len(rows), per_batch):
        yield _packed_batch(tokens, rows[start : start + per_batch], width)


def _packed_batch(tokens: Sequence[Tensor], rows: Sequence[Sequence[int]], width: int) -> ProbeBatch:
    inputs = torch.full((len(rows), width), PAD)
    segments = torch.full_like(inputs, -1)
    positions = torch.arange(width).repeat(len(rows), 1)
    gather, offsets, probes = [], [0], []
    for r, row in enumerate(rows):
        column = 0
        for number, i in enumerate(row):
            end = column + len(tokens[i])
            inputs[r, column:end] = tokens[i]
            segments[r, column:end] = number
            positions[r, column:end] -= column
            gather.append(torch.arange(r * width + column, r * width + end))
            offsets.append(offsets[-1] + len(tokens[i]))
            probes.append(i)
            column = end
        positions[r, column:] -= column
    return ProbeBatch(inputs, tuple(probes), torch.cat(gather), torch.tensor(offsets[:-1]), segments, positions)


def grouped(inputs: Sequence[Tensor], batch_tokens: int) -> Iterator[ProbeBatch]:
    """Probes of equal shape share a batch; no position is padded."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, probe in enumerate(inputs):
        groups.setdefault(tuple(probe.shape), []).append(i)
    for shape, members in groups.items():
        per_batch = max(1, batch_tokens // max(1, shape[0]))
        for start in range(0, len(members), per_batch):
            chosen = members[start : start + per_batch]
            yield _whole_rows(torch.stack([inputs[i] for i in chosen]), chosen)


def padded(tokens: Sequence[Int[Tensor, " _"]], batch_tokens: int) -> Iterator[ProbeBatch]:
    """Every probe padded on the right to the longest, and every position pooled, padding too: the paper's artefact."""
    rows = torch.nn.utils.rnn.pad_sequence(list(tokens), batch_first=True, padding_value=PAD)
    yield from grouped(list(rows), batch_tokens)


def _whole_rows(rows: Tensor, probes: Sequence[int]) -> ProbeBatch:
    width = rows.shape[1] if rows.dim() > 1 else 1
    count = len(probes)
    return ProbeBatch(rows, tuple(probes), torch.arange(count * width), torch.arange(count) * width)


def block_causal_mask(segments: Int[Tensor, "rows T"]) -> Bool[Tensor, "rows 1 T T"]:
    """True where a position may look: at itself and earlier positions of its own probe.

    Padded positions look at one another, so that no row of the softmax is empty.
    """
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return same.tril()


def additive_mask(allowed: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """0 where allowed, the lowest finite number elsewhere: the form that both eager and fused attention take."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)
