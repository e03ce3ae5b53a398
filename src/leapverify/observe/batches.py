"""The fingerprint from one whole batch: for models whose inputs are no token ids (images, rows, several tensors)."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from leapverify.observe import capture
from leapverify.undisturbed import undisturbed


class BatchFingerprinter:
    """Takes the fingerprint a_t from one batch, passed to the model as it is: one row per example.

    The activations of the observed module are averaged over everything but the examples and the features: over the
    tokens of (B, T, d), attention-masked where the batch says so; over the area of (B, C, H, W); (B, d) stays.

    Args:
        model: any module. Compiled and DistributedDataParallel models are looked into.
        batch: a tensor, a mapping (passed by name, as far as the model takes the names), or a sequence, of which as
            many tensors are passed as the model's `forward` needs.
        layer: name of a module; None for the norm registered last, or else the input of the last `Linear`.

    Raises:
        ValueError: the batch holds no tensor, or there is no such layer.
    """

    def __init__(self, model: nn.Module, batch: Any, *, layer: str | None = None) -> None:
        self._model = capture.unwrapped(model)
        self._module, self.layer, self._before = capture.observed(self._model, layer)
        self._arguments, self._named = arguments_of(self._model, batch)
        first = next(iter((*self._arguments, *self._named.values())))
        self.rows = len(first)
        self.identity = _identity(self.layer, self._arguments, self._named)

    @property
    def positions(self) -> int:
        """Positions that one fingerprint computes: tokens of integer inputs, examples of others."""
        first = next(iter((*self._arguments, *self._named.values())))
        return first.numel() if not first.is_floating_point() and first.dim() == 2 else self.rows

    def __call__(self) -> Float[Tensor, "rows d"]:
        """The fingerprint of the present weights, float32 on the CPU.

        Raises:
            ValueError: the layer was not reached, or gave something without one row per example.
        """
        device = next((p.device for p in self._model.parameters()), torch.device("cpu"))
        arguments = [each.to(device) for each in self._arguments]
        named = {name: each.to(device) for name, each in self._named.items()}
        catch = capture.caught(self._module, self.layer, before=self._before)
        with undisturbed(self._model), capture.eagerly(), catch as found:
            self._model(*arguments, **named)
        hidden = found()
        if hidden.dim() < 2 or len(hidden) != self.rows:
            raise ValueError(
                f"layer {self.layer!r} gave shape {tuple(hidden.shape)} for {self.rows} examples: name a layer with "
                "layer=... that gives one row per example"
            )
        return _pooled(hidden, named.get("attention_mask")).float().cpu()


def _pooled(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """(B, d) from (B, d), (B, T, d) or (B, C, *area)."""
    hidden = hidden.detach().float()
    if hidden.dim() == 2:
        return hidden
    if hidden.dim() > 3:
        return hidden.flatten(2).mean(dim=2)
    if mask is None or mask.shape != hidden.shape[:2]:
        return hidden.mean(dim=1)
    weights = mask.to(hidden.dtype)[:, :, None]
    # where, not a product: whatever stands in padded positions, NaN included, stays out.
    return torch.where(weights > 0, hidden, 0.0).sum(1) / weights.sum(1).clamp(min=1.0)


def arguments_of(model: nn.Module, batch: Any) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The positional and named tensors that a model's `forward` takes of a batch, on the CPU.

    Raises:
        ValueError: there is no tensor in the batch.
    """
    positional, names = _accepted(model)
    if isinstance(batch, Tensor):
        return (_kept(batch),), {}
    if isinstance(batch, Mapping):
        tensors = {str(name): value for name, value in batch.items() if isinstance(value, Tensor)}
        known = {name: _kept(value) for name, value in tensors.items() if names is None or name in names}
        # Labels only make the model compute a loss that nobody looks at.
        inputs = {name: value for name, value in known.items() if name not in ("labels", "label")} or known
        if inputs:
            return (), inputs
        batch = list(tensors.values())
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        tensors_in = [value for value in batch if isinstance(value, Tensor)]
        if tensors_in:
            return tuple(_kept(each) for each in tensors_in[: max(1, positional)]), {}
    raise ValueError(f"a batch of type {type(batch).__name__} holds no tensor: give a tensor, a mapping or a sequence")


def _accepted(model: nn.Module) -> tuple[int, set[str] | None]:
    """How many positional arguments `forward` cannot do without, and the names it takes (None: any)."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = sum(p.kind in plain and p.default is inspect.Parameter.empty for p in parameters)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters) and len(parameters) < 3:
        return needed, None
    return needed, {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone()


def _identity(layer: str, arguments: Sequence[Tensor], named: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(f"batch {layer}".encode())
    for name, each in (*((str(i), each) for i, each in enumerate(arguments)), *named.items()):
        digest.update(f"{name}{each.dtype}{tuple(each.shape)}".encode())
        digest.update(each.contiguous().view(torch.uint8).numpy().tobytes() if each.numel() else b"")
    return digest.hexdigest()
