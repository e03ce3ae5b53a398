"""Batches by the number of their step, on the device; on a GPU the next one travels while this one is used."""

from __future__ import annotations

import torch

from leapverify.train.windows import Batch, Windows, batch_indices


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
