"""Looking at a model without leaving a trace: modes, buffers and random streams come back bit-identical."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[nn.Module]:
    """Run a block with the model in eval mode and without gradients, and leave no trace of it.

    On exit, also by an exception, these are bit-identical to what they were on entry: the training flag of every
    module, every buffer (non-persistent ones too, and the object that stands under each name), and the global random
    streams of Python, NumPy, torch on the CPU and torch on every accelerator that is in use. So are the weights of
    modules with a `max_norm` (embeddings), which write them in every forward pass. Other parameters are the block's
    own business: it may write them, and then has to write them back (`unwritten` finds out whether it did).

    Args:
        model: the model to look at; any nesting, any mixture of training flags.

    Yields:
        The model itself.
    """
    with ExitStack() as undo:
        modules = list(model.modules())
        for restore in (*random_streams(model), _renormed(modules), _buffers(modules), _modes(modules)):
            undo.callback(restore)
        # One by one, because an overridden `train()` may do more than set flags (merge adapters into the weights).
        for module in modules:
            module.training = False
        # An autocast that the caller has entered may hold narrow copies of other weights: they are not read here, and
        # those of this block do not outlive it.
        undo.callback(torch.clear_autocast_cache)
        torch.clear_autocast_cache()
        with torch.no_grad():
            yield model


def _modes(modules: Sequence[nn.Module]) -> Callable[[], None]:
    flags = [(module, module.training) for module in modules]

    def restore() -> None:
        for module, training in flags:
            module.training = training

    return restore


def _buffers(modules: Sequence[nn.Module]) -> Callable[[], None]:
    # Those without buffers too: a forward pass may register one.
    slots = [(module, dict(module._buffers)) for module in modules]
    unique = {id(buffer): buffer for _, held in slots for buffer in held.values() if buffer is not None}
    saved = [(buffer, buffer.detach().clone()) for buffer in unique.values()]

    def restore() -> None:
        for module, held in slots:
            if held or module._buffers:
                module._buffers.clear()
                module._buffers.update(held)
        for buffer, content in saved:
            # Through `.data`: the version counter stays, so a graph that is waiting for its backward pass is not upset.
            buffer.data.copy_(content)

    return restore


def _renormed(modules: Sequence[nn.Module]) -> Callable[[], None]:
    saved = [(parameter, parameter.detach().clone()) for parameter in _renorming(modules)]

    def restore() -> None:
        for parameter, content in saved:
            parameter.data.copy_(content)

    return restore


def _renorming(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """Parameters that a forward pass shortens in place."""
    # In its dictionary: asking a module for what it has not is slow.
    return _parameters([module for module in modules if module.__dict__.get("max_norm") is not None])


def _parameters(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    found = {id(each): each for module in modules for each in module._parameters.values() if each is not None}
    return list(found.values())


class WrittenError(ValueError):
    """A block that was to look only has written a parameter."""


@contextmanager
def unwritten(model: nn.Module) -> Iterator[None]:
    """Make sure that a block writes no parameter.

    Told by the version counters, so it costs next to nothing; those that `undisturbed` puts back are left out.

    Args:
        model: whose parameters are looked at; the block runs it in `undisturbed`.

    Raises:
        WrittenError: a parameter was written in place. It stays as it is: its old values are not known.
    """
    modules = list(model.modules())
    exempt = {id(each) for each in _renorming(modules)}
    before = [
        (each, each._version) for each in _parameters(modules) if id(each) not in exempt and not each.is_inference()
    ]
    yield
    found = {id(each) for each, version in before if each._version != version}
    written = next((name for name, each in model.named_parameters() if id(each) in found), None) if found else None
    if written is not None:
        raise WrittenError(
            f"parameter {written} was written by a forward pass in eval mode, so that looking at the model would "
            "change it: write it only where self.training is set, or make it a buffer"
        )


@contextmanager
def streams_kept(model: nn.Module) -> Iterator[None]:
    """The global random streams come back bit-identical, whatever the block draws."""
    undo = random_streams(model)
    try:
        yield
    finally:
        for restore in undo:
            restore()


@contextmanager
def repeated_streams(model: nn.Module) -> Iterator[None]:
    """Whatever a block draws from the random streams of torch, Python and NumPy, it draws the same each time.

    Args:
        model: the streams of its devices are meant; all come back bit-identical.
    """
    undo = random_streams(model)
    try:
        random.seed(0)
        np.random.seed(0)
        torch.default_generator.manual_seed(0)
        for device in accelerators(model):
            backend = getattr(torch, device.type)
            getattr(backend, "manual_seed_all", backend.manual_seed)(0)
        yield
    finally:
        for restore in undo:
            restore()


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
    """Devices other than the CPU whose random streams may be drawn from.

    Every one of CUDA and XPU once they are in use at all, which weights on them imply; MPS where there is one; else
    the device of the first parameter. The tensors of the model are not gone through: there may be thousands.
    """
    devices: set[torch.device] = set()
    for backend in (torch.cuda, torch.xpu):
        if backend.is_initialized():
            kind = backend.__name__.rpartition(".")[2]
            devices |= {torch.device(kind, index) for index in range(backend.device_count())}
    if torch.backends.mps.is_available():
        devices.add(torch.device("mps", 0))
    first = next(model.parameters(), None)
    if first is not None and first.device.type not in ("cpu", "meta", "cuda", "xpu", "mps"):
        devices.add(first.device)
    return devices
