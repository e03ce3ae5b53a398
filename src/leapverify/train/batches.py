"""Token sequences of one length out of a flat row of tokens, and the order in which training visits them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences side by side."""

    tokens: Int64[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    """True on real tokens, False on padding."""
    counted: Int64[Tensor, " n"] | None
    """Flat indices into the (b, t - 1) predictions whose next token is real; None where all are.

    Worked out when the batch is cut, so that no loss has to ask a device how many there are."""

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that the batch holds."""
        always = (self.tokens, self.mask)
        return always if self.counted is None else (*always, self.counted)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device; itself if it is there. From page-locked memory to a GPU, nobody waits for the copy."""
        # The other way round the host would read what has not arrived.
        ahead = torch.device(device).type != "cpu"
        return self._each(lambda tensor: tensor.to(device, non_blocking=ahead))

    def pinned(self) -> Batch:
        """The batch in page-locked memory, from which a GPU fetches it by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        counted = None if self.counted is None else function(self.counted)
        return Batch(function(self.tokens), function(self.mask), counted)


def make_batch(tokens: Int64[Tensor, "b t"], mask: Bool[Tensor, "b t"] | None = None) -> Batch:
    """A batch from tokens and, where some are padding, a mask that is True on the real ones."""
    if mask is None or bool(mask.all()):
        return Batch(tokens, torch.ones_like(tokens, dtype=torch.bool), None)
    return Batch(tokens, mask, mask[:, 1:].flatten().nonzero().squeeze(1))


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Sequences of one length, cut where `starts` and `ends` say out of one flat row of tokens."""

    tokens: NDArray[Any]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    length: int
    """T, tokens."""
    pad_id: int

    def __len__(self) -> int:
        return len(self.starts)

    def sequence(self, index: int) -> Int64[Tensor, " t"]:
        """Sequence `index`, padded at its end to the full length."""
        return self.batch([index]).tokens[0]

    def batch(self, indices: Sequence[int]) -> Batch:
        """The sequences named by `indices`, on the CPU."""
        rows = np.full((len(indices), self.length), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(indices), self.length), dtype=np.bool_)
        for row, index in enumerate(indices):
            found = self.tokens[self.starts[index] : self.ends[index]][: self.length]
            rows[row, : len(found)] = found
            mask[row, : len(found)] = True
        return make_batch(torch.from_numpy(rows), torch.from_numpy(mask))

    def spread(self, count: int) -> list[int]:
        """`count` different indices spread evenly over all sequences, in increasing order.

        Raises:
            ValueError: there are fewer sequences than that.
        """
        if not 0 < count <= len(self):
            raise ValueError(
                f"{count} sequences asked for where there are {len(self)}: ask for fewer, or give more text"
            )
        return [index * len(self) // count for index in range(count)]


def batch_indices(n_windows: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Which sequences step number `step` trains on; a pure function, so that resuming needs no state.

    Every epoch is one permutation of all sequences, drawn from (seed, epoch); batches run over the epochs' ends.

    Args:
        n_windows: number of sequences.
        batch_size: sequences per step.
        step: number of the optimizer step, from 1.
        seed: of the run.

    Returns:
        `batch_size` indices below `n_windows`.

    Raises:
        ValueError: a number below 1.
    """
    if n_windows < 1 or batch_size < 1 or step < 1:
        raise ValueError(f"{n_windows} sequences, batch {batch_size}, step {step}: each must be at least 1")
    first = (step - 1) * batch_size
    return [
        int(_permutation(n_windows, seed, position // n_windows)[position % n_windows])
        for position in range(first, first + batch_size)
    ]


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(size)


class Batches:
    """What every step of a run trains on.

    What comes back depends on the step's number alone, so that resuming needs no state and any order may be asked for.
    On a GPU the batch of the step after the one asked for is cut at once, into page-locked memory, and copied on a
    stream of its own, beside the kernels that are at work; asking for another step than that costs a cut, no more.
    Elsewhere nothing is done ahead. Not run on a GPU yet.

    Args:
        windows: the sequences.
        batch_size: sequences per step.
        seed: of the run.
        device: where the batches are needed.
    """

    def __init__(self, windows: Windows, batch_size: int, seed: int, device: torch.device | str) -> None:
        self._windows, self._size, self._seed = windows, batch_size, seed
        self._device = torch.device(device)
        self._stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._ahead: tuple[int, Batch, torch.cuda.Event] | None = None

    def __call__(self, step: int) -> Batch:
        """The batch of step number `step`, from 1."""
        if self._stream is None:
            return self._cut(step).to(self._device)
        if self._ahead is None or self._ahead[0] != step:
            self._send(step, self._stream)
        batch = self._received()
        self._send(step + 1, self._stream)
        return batch

    def _cut(self, step: int) -> Batch:
        return self._windows.batch(batch_indices(len(self._windows), self._size, step, self._seed))

    def _send(self, step: int, stream: torch.cuda.Stream) -> None:
        """Start copying a batch; its page-locked source is kept by torch's allocator until the copy is done."""
        with torch.cuda.stream(stream):
            self._ahead = step, self._cut(step).pinned().to(self._device), stream.record_event()

    def _received(self) -> Batch:
        """The batch on its way, which kernels of the present stream may use, and only they keep from being reused."""
        assert self._ahead is not None
        _, batch, arrived = self._ahead
        present = torch.cuda.current_stream(self._device)
        present.wait_event(arrived)
        for tensor in batch.tensors:
            # Its memory belongs to the other stream: not to be given out again before the present one is done with it.
            tensor.record_stream(present)
        return batch


def share_of(count: int, share: int, shares: int) -> range:
    """The rows of a batch that one share holds: neighbouring ones, so that all shares in order are the batch.

    Args:
        count: rows of the batch.
        share: from 0.
        shares: how many there are; some hold nothing where there are more than rows.
    """
    return range(share * count // shares, (share + 1) * count // shares)


def part_of(batch: Batch, rows: range) -> Batch:
    """Neighbouring rows of a batch, at least one."""
    tokens, mask = batch.tokens[rows.start : rows.stop], batch.mask[rows.start : rows.stop]
    if batch.counted is None:
        return Batch(tokens, mask, None)
    width = tokens.shape[1] - 1
    first, last = rows.start * width, rows.stop * width
    counted = batch.counted[(batch.counted >= first) & (batch.counted < last)] - first
    return Batch(tokens, mask, counted)


def counted_tokens(batch: Batch, count_padding: bool) -> int:
    """Predictions of a batch that enter its loss."""
    if count_padding or batch.counted is None:
        return len(batch) * (batch.tokens.shape[1] - 1)
    return len(batch.counted)
