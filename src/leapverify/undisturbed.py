"""Looking at a model without leaving a trace: modes, buffers and random streams come back bit-identical."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[nn.Module]:
    """Run a block with the model in eval mode and without gradients, and leave no trace of it.

    On exit, also by an exception, these are bit-identical to what they were on entry: the training flag of every
    module, every buffer (non-persistent ones too, and the object that stands under each name), and the global random
    streams of Python, NumPy, torch on the CPU and torch on every accelerator that is in use. Parameters are the
    block's own business: it may write them, and then has to write them back.

    Args:
        model: the model to look at; any nesting, any mixture of training flags.

    Yields:
        The model itself.
    """
    with ExitStack() as undo:
        for restore in (*random_streams(model), _buffers(model), _modes(model)):
            undo.callback(restore)
        # One by one, because an overridden `train()` may do more than set flags (merge adapters into the weights).
        for module in model.modules():
            module.training = False
        with torch.no_grad():
            yield model


def _modes(model: nn.Module) -> Callable[[], None]:
    flags = [(module, module.training) for module in model.modules()]

    def restore() -> None:
        for module, training in flags:
            module.training = training

    return restore


def _buffers(model: nn.Module) -> Callable[[], None]:
    modules = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    unique = {id(buffer): buffer for _, held in modules for buffer in held.values() if buffer is not None}
    saved = [(buffer, buffer.detach().clone()) for buffer in unique.values()]

    def restore() -> None:
        for module, held in modules:
            module._buffers.clear()
            module._buffers.update(held)
        for buffer, content in saved:
            # Through `.data`: the version counter stays, so a graph that is waiting for its backward pass is not upset.
            buffer.data.copy_(content)

    return restore


def random_streams(model: nn.Module) -> list[Callable[[], None]]:
    """Functions that put back the global random streams (Python, NumPy, torch, accelerators) as they are now."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    undo: list[Callable[[], None]] = [
        lambda: random.setstate(python),
        lambda: np.random.set_state(numpy),
        lambda: torch.set_rng_state(cpu),
    ]
    for device in accelerators(model):
        backend = getattr(torch, device.type)
        undo.append(_device_stream(backend, device))
    return undo


def _device_stream(backend: object, device: torch.device) -> Callable[[], None]:
    if device.type == "mps":
        state = torch.mps.get_rng_state()
        return lambda: torch.mps.set_rng_state(state)
    state = backend.get_rng_state(device)  # type: ignore[attr-defined]
    return lambda: backend.set_rng_state(state, device)  # type: ignore[attr-defined]


def accelerators(model: nn.Module) -> set[torch.device]:
    """Devices other than the CPU that hold the model, and every CUDA device once CUDA is in use at all."""
    tensors = [*model.parameters(), *model.buffers()]
    devices = {tensor.device for tensor in tensors if tensor.device.type not in ("cpu", "meta")}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        devices |= {torch.device("cuda", index) for index in range(torch.cuda.device_count())}
    return devices
