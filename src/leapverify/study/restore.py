"""Weights and whole runs that come back bit for bit after predictions and steps were tried on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leapverify.core.pinned import copy_ahead, host_memory
from leapverify.core.shards import local
from leapverify.train.state import capture_rng, restore_rng
from leapverify.trajectory.history import History


class OffloadBuffer:
    """Copies of tensors in host memory, allocated once.

    For tensors on a GPU the memory is page-locked and copies run on a stream of their own: `save` and `restore` only
    start them. Call `wait` before you write a tensor that is being saved, or use one that is being restored.
    """

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []
        self._memory: list[Tensor] = []
        self._stream: torch.cuda.Stream | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of host memory asked for; see `host_bytes` for what page-locking makes of them."""
        return self._memory[0].untyped_storage().nbytes() if self._memory else 0

    def save(self, tensors: Sequence[Tensor]) -> None:
        """Start copying; the same memory serves as long as the tensors are of the same shapes and types.

        Args:
            tensors: of the CPU and of at most one GPU; `restore` writes these very ones.
        """
        self._tensors = [tensor.detach() for tensor in tensors]
        device = next((each.device for each in tensors if each.is_cuda), None)
        if [(each.shape, each.dtype) for each in tensors] != [(each.shape, each.dtype) for each in self._memory]:
            self._memory = []  # let go of before the next is allocated
            self._memory = host_memory(tensors, locked=device is not None)
        if device is not None and self._stream is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copy(self._memory, self._tensors)

    def restore(self) -> None:
        """Start writing back what was saved last."""
        self._copy(self._tensors, self._memory)

    def wait(self) -> None:
        """Have the GPU do what it is asked from here on after the copies; the host does not wait."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    @torch.no_grad()
    def _copy(self, out: list[Tensor], source: list[Tensor]) -> None:
        if not out:
            return
        if self._stream is None:
            torch._foreach_copy_(out, source)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            torch._foreach_copy_(out, source, non_blocking=True)


class WeightRestorer:
    """Brings theta_t back to parameters that predictions were written into.

    The newest snapshot of the history serves where it holds every bit of theta_t. Only parameters that the history
    rounds are offloaded.

    Args:
        parameters: in the order of the history's tensors.
        history: its newest snapshot is of theta_t whenever `save` or `restore` is called.
    """

    def __init__(self, parameters: Sequence[Tensor], history: History) -> None:
        self._parameters, self._history = parameters, history
        self._rounded = [each for each in parameters if not _holds(history.dtype, each.dtype)]
        self._buffer = OffloadBuffer()

    @property
    def exact(self) -> bool:
        """Whether the history holds every bit of theta_t."""
        return not self._rounded

    @property
    def nbytes(self) -> int:
        """Bytes of host memory in use."""
        return self._buffer.nbytes

    def save(self) -> None:
        """Note theta_t, which the parameters hold; they may be written at once."""
        if self._rounded:
            self._buffer.save(self._rounded)
            self._buffer.wait()

    def restore(self) -> None:
        """Write theta_t into the parameters, bit for bit."""
        dtype = self._history.dtype
        pairs = zip(self._parameters, self._history[-1].tensors, strict=True)
        exact = [(parameter, kept) for parameter, kept in pairs if _holds(dtype, parameter.dtype)]
        copy_ahead([parameter for parameter, _ in exact], [kept for _, kept in exact])
        if self._rounded:
            self._buffer.restore()
            self._buffer.wait()


def _holds(kept: torch.dtype, dtype: torch.dtype) -> bool:
    """Whether one type holds every value of another."""
    return torch.promote_types(kept, dtype) == kept


class RestorePoint:
    """Where a run stands: saved once, restored any number of times.

    That is weights, buffers, moments, step counts, rates, training modes and random streams. On a GPU the moments are
    copied while it does other work: call `leave` before anything of this changes, and `wait` before they are read.

    Args:
        model, optimizer: the run.
        apart: weights that the caller restores, or what this rank holds of them.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, apart: Sequence[Tensor] = ()) -> None:
        self._model, self._optimizer = model, optimizer
        self._apart = {_place(tensor) for tensor in apart}
        self._moments, self._rest = OffloadBuffer(), OffloadBuffer()
        self._left = False

    @property
    def nbytes(self) -> int:
        """Bytes of host memory in use."""
        return self._moments.nbytes + self._rest.nbytes

    def save(self) -> None:
        """Note where the run stands now."""
        trained = [local(each) for each in self._model.parameters() if each.requires_grad]
        weights = [each for each in trained if _place(each) not in self._apart]
        groups = self._optimizer.param_groups
        states = [self._optimizer.state.get(each, {}) for group in groups for each in group["params"]]
        moments = [local(value) for state in states for value in state.values() if isinstance(value, Tensor)]
        # Looking at a model may write these, and writes them back: they cannot be read meanwhile.
        self._rest.save([*weights, *self._model.buffers()])
        self._rest.wait()
        self._moments.save(moments)
        self._known = set(self._optimizer.state)
        self._rates = [group["lr"] for group in groups]
        self._modes = [(module, module.training) for module in self._model.modules()]
        self._streams = capture_rng()
        self._left = False

    def leave(self) -> None:
        """Something of it is about to change."""
        self.wait()
        self._left = True

    def wait(self) -> None:
        """Have the device find everything in its place from here on."""
        self._moments.wait()

    def restore(self) -> None:
        """Start going back to where the run stood, if it has been left."""
        if not self._left:
            return
        self._left = False
        self._moments.restore()
        self._rest.restore()
        self._rest.wait()
        for parameter in [each for each in self._optimizer.state if each not in self._known]:
            del self._optimizer.state[parameter]
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        for module, training in self._modes:
            module.training = training
        restore_rng(self._streams)


def _place(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor lies; all that are empty lie nowhere."""
    part = local(tensor)
    return (part.data_ptr(), part.numel()) if part.numel() else (0, 0)
