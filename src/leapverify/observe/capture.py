"""Where in a model the activations are taken, and how they get out of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from leapverify.observe.packing import ProbeBatch

_PACKABLE = frozenset({"gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3"})
"""Families of transformers that take a 4-D mask and position ids, both tested against one probe at a time."""

_MASKED = frozenset({"sdpa", "eager", "leapverify-causal"})
"""Attentions that keep to a 4-D mask; the last one is the reference runs' own: sdpa, with no mask unless given one."""


class Source(Protocol):
    """Runs one batch through a model and returns the activations of the layer that it stands for."""

    layer: str
    """What is captured, in words that go into the identity of a fingerprint."""

    def __call__(self, batch: ProbeBatch) -> Tensor:
        """Activations of one batch, (rows, T, d) or (rows, d), in the model's own type."""


class NotCaptured(ValueError):
    """The model ran, but the layer gave nothing to take."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside torch.compile, DistributedDataParallel and peft: hooks put on the former later never fire."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(inner, nn.Module):
            model = inner
        elif isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif any(c.__name__ == "PeftModel" for c in type(model).mro()):
            model = model.get_base_model()  # type: ignore[operator]
        else:
            return model


def is_transformers(model: nn.Module) -> bool:
    """Whether this is a model of the transformers library, told without importing it."""
    return any(
        c.__module__ == "transformers.modeling_utils" and c.__name__ == "PreTrainedModel" for c in type(model).mro()
    )


def base_of(model: nn.Module) -> nn.Module:
    """A transformers model without its head."""
    base = model.base_model
    assert isinstance(base, nn.Module)
    return base


def runner_of(model: nn.Module) -> nn.Module:
    """What is run for the activations of a transformers model: its base, so that the head is never computed.

    The whole of a model that `fully_shard` was applied to: its own hooks bring the base's weights together.
    """
    return model if isinstance(model, FSDPModule) else base_of(model)


def packs(model: nn.Module, longest: int) -> bool:
    """Whether probes of up to `longest` tokens may share a row of this model."""
    config = getattr(model, "config", None)
    if not is_transformers(model) or getattr(config, "model_type", None) not in _PACKABLE:
        return False
    window = getattr(config, "sliding_window", None)
    return getattr(config, "_attn_implementation", None) in _MASKED and (window is None or window >= longest)


def source_of(model: nn.Module, layer: str | None) -> Source:
    """The source for a named layer, or for the final hidden states where none is named.

    transformers models: the last hidden state of the base model, so the head is never computed. Others: the output of
    the norm that was registered last, or else the input of the last `Linear`.

    Raises:
        ValueError: there is no module of that name, or none to choose.
    """
    if layer is None and is_transformers(model):
        return LastHidden(model)
    module, name, before = observed(model, layer)
    return Hooked(model, name, module, before=before)


def observed(model: nn.Module, layer: str | None) -> tuple[nn.Module, str, bool]:
    """The module to look at, what it is called, and whether its input is meant instead of its output.

    The named module; or the norm that was registered last; or else the input of the last `Linear` (the output where it
    holds all the weights).

    Raises:
        ValueError: there is no module of that name, or none to choose.
    """
    if layer is not None:
        return _named(model, layer), layer, False
    # What computes a weight (weight_norm is called a norm, too) never sees the activations.
    modules = {name: module for name, module in model.named_modules() if "parametrizations" not in name.split(".")}
    norms = [name for name, module in modules.items() if name and _is_norm(module)]
    if norms:
        return modules[norms[-1]], norms[-1], False
    linears = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    if linears and {*map(id, modules[linears[-1]].parameters())} == {*map(id, model.parameters())}:
        # What it is given does not depend on any weight.
        return modules[linears[-1]], linears[-1] or "output", False
    if linears:
        return modules[linears[-1]], f"input of {linears[-1]}", True
    raise ValueError(f"{type(model).__name__} has no norm and no Linear to observe: name the layer with layer=...")


def _is_norm(module: nn.Module) -> bool:
    parts = [name for name, _ in module.named_children() if name != "parametrizations"]
    return type(module).__name__.endswith("Norm") and not parts


def _named(model: nn.Module, layer: str) -> nn.Module:
    modules = dict(model.named_modules())
    if layer not in modules or not layer:
        last = ", ".join([name for name in modules if name][-5:])
        raise ValueError(f"layer {layer!r} is no module of {type(model).__name__}: its last ones are {last}")
    return modules[layer]


class LastHidden:
    """The last hidden state of a transformers model: after the last norm, before the head."""

    layer = "last_hidden_state"

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, batch: ProbeBatch) -> Tensor:
        """Activations (rows, T, d)."""
        if runner_of(self._model) is self._model:
            with caught(base_of(self._model), self.layer) as found:
                _run(self._model, batch)
            return found()
        output = _run(base_of(self._model), batch)
        hidden = getattr(output, "last_hidden_state", None)
        if not isinstance(hidden, Tensor):
            name = type(self._model).__name__
            raise ValueError(
                f"{name} returned no last_hidden_state, so nothing was captured: name a layer with layer=..."
            )
        return gathered(hidden)


class Hooked:
    """The output (or, with `before`, the first input) of one module, caught by a hook that lives for one pass."""

    def __init__(self, model: nn.Module, name: str, module: nn.Module, *, before: bool = False) -> None:
        self.layer = name
        self._module = module
        self._before = before
        self._runner = model
        # Whatever the layer needs lies in the base model, unless the layer is the head itself.
        if is_transformers(model) and any(module is inner for inner in base_of(model).modules()):
            self._runner = runner_of(model)

    def __call__(self, batch: ProbeBatch) -> Tensor:
        """Activations of the module; of its last call, where a forward pass calls it more than once."""
        with caught(self._module, self.layer, before=self._before) as found:
            _run(self._runner, batch)
        return found()


@contextmanager
def caught(module: nn.Module, layer: str, *, before: bool = False) -> Iterator[Callable[[], Tensor]]:
    """Catch what a module gives (or, with `before`, is given) while the block runs the model.

    Yields:
        A function that gives the tensor once the block has run the model, of the module's last call if there were
        several; ValueError where the module was not called, or gave no tensor.
    """
    values: list[Any] = []

    def catch(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        values[:] = [next(iter((*inputs, *named.values())), None) if before else output]

    def found() -> Tensor:
        if not values:
            raise NotCaptured(
                f"nothing was captured: layer {layer!r} was not called as a module in the forward pass "
                "(is the model compiled or exported?); name another with layer=..."
            )
        return _tensor_in(values[0], layer)

    handle = module.register_forward_hook(catch, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def _tensor_in(value: Any, layer: str) -> Tensor:
    if isinstance(value, tuple | list) and value:
        value = value[0]
    value = getattr(value, "last_hidden_state", value)
    if not isinstance(value, Tensor):
        raise NotCaptured(f"layer {layer!r} gave a {type(value).__name__}, not a tensor: name another with layer=...")
    return gathered(value)


def gathered(hidden: Tensor) -> Tensor:
    """Activations as every rank needs them: whole, where the layers of a tensor-parallel model gave parts."""
    return hidden.full_tensor() if isinstance(hidden, DTensor) else hidden


def _run(runner: nn.Module, batch: ProbeBatch) -> Any:
    with eagerly():
        if batch.segments is None or batch.positions is None:
            return runner(batch.inputs)
        dtype = next((p.dtype for p in runner.parameters() if p.dtype.is_floating_point), torch.get_default_dtype())
        return runner(batch.inputs, attention_mask=batch.mask(dtype), position_ids=batch.positions, use_cache=False)


@contextmanager
def eagerly() -> Iterator[None]:
    """Compiled submodules run as they are written: hooks fire, and the probes' shapes cause no recompilation."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
