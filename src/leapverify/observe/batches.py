"""The fingerprint from one whole batch: for models whose inputs are no token ids (images, rows, several tensors)."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from leapverify.core.batch_tree import mapped, rows_of, tensors_in
from leapverify.core.undisturbed import repeated_streams, undisturbed
from leapverify.observe import capture

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


Run = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True)
class _Way:
    """One way of running a model on a batch."""

    name: str
    run: Callable[[Any], Any]


class BatchFingerprinter:
    """Takes the fingerprint a_t from one batch: one row per example.

    The activations of the observed module are averaged over everything but the examples and the features: over the
    tokens of (B, T, d), attention-masked where the batch says so; over the area of (B, C, H, W); (B, d) stays.

    The first fingerprint finds out how the model takes the batch, and later ones keep to that way: its tensors by name
    or position; the batch as one argument; both again with its floating-point tensors in the type of the weights; and
    `run`. Whatever is drawn at random is drawn the same each time.

    Args:
        model: any module. Compiled and DistributedDataParallel models are looked into.
        batch: a tensor, a mapping (passed by name, as far as the model takes the names), a sequence, of which as many
            tensors are passed as the model's `forward` needs, or any object that the model or `run` takes.
        layer: name of a module; None for the norm registered last, or else the input of the last `Linear`.
        run: function of (model, batch) that runs the model, such as a loss function.
        run_first: try `run` before anything else, because it is known to take this batch.

    Raises:
        ValueError: the batch holds no tensor, or there is no such layer.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Any,
        *,
        layer: str | None = None,
        run: Run | None = None,
        run_first: bool = False,
    ) -> None:
        self._whole, self._model = model, capture.unwrapped(model)
        self._module, self.layer, self._before = capture.observed(self._model, layer)
        self._batch = mapped(batch, _kept)
        if run is None:
            _require_tensors(batch, tensors_in(batch))
        self.rows = rows_of(self._batch)
        self.identity = _identity(self.layer, self._batch)
        self._ways = self._all_ways(run, run_first)
        self._way: _Way | None = None

    @property
    def positions(self) -> int:
        """Positions that one fingerprint computes: tokens of integer inputs, examples of others."""
        first = next(iter(tensors_in(self._batch)), None)
        if first is None or first.is_floating_point() or first.dim() != 2:
            return self.rows
        return first.numel()

    def __call__(self) -> Float[Tensor, "rows d"]:
        """The fingerprint of the present weights, float32 on the CPU.

        Raises:
            ValueError: the model takes the batch in no way, the layer was not reached, or it gave something without
                one row per example.
        """
        if self._way is not None:
            return self._look(self._way)
        failures: list[tuple[str, Exception]] = []
        for way in self._ways:
            try:
                found = self._look(way)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                failures.append((way.name, error))
            else:
                self._way = way
                return found
        raise _none_of(failures) from failures[0][1]

    def _look(self, way: _Way) -> Tensor:
        catch = capture.caught(self._module, self.layer, before=self._before)
        with undisturbed(self._whole), repeated_streams(self._whole), capture.eagerly(), catch as found:
            way.run(self._batch)
        hidden = found()
        if hidden.dim() < 2 or len(hidden) != self.rows:
            raise _Unfit(
                f"layer {self.layer!r} gave shape {tuple(hidden.shape)} for {self.rows} examples: name a layer with "
                "layer=... that gives one row per example"
            )
        mask = self._batch.get("attention_mask") if isinstance(self._batch, Mapping) else None
        return _pooled(hidden, mask.to(hidden.device) if isinstance(mask, Tensor) else None).float().cpu()

    def _all_ways(self, run: Run | None, run_first: bool) -> list[_Way]:
        own = [] if run is None else [_Way("by the loss function", lambda batch: run(self._whole, batch))]
        parts = _Way("tensor by tensor", self._by_tensors)
        whole = [] if isinstance(self._batch, Tensor) else [_Way("as one argument", self._as_one)]
        plain = whole
        if tensors_in(self._batch):
            # A model that knows no name of a mapping, or is given an object, most likely takes it as one argument.
            plain = [parts, *whole] if _in_parts(self._model, self._batch) else [*whole, parts]
        dtype = next((p.dtype for p in self._model.parameters() if p.dtype in FLOATS), torch.float32)
        if any(each.dtype in FLOATS and each.dtype != dtype for each in tensors_in(self._batch)):
            plain += [_Way(f"{way.name} in {dtype}", _cast(way.run, dtype)) for way in plain]
        return [*own, *plain] if run_first else [*plain, *own]

    def _moved(self, batch: Any) -> Any:
        """On the device of the weights; a loss function does that itself where it wants it."""
        device = next((p.device for p in self._model.parameters()), torch.device("cpu"))
        return mapped(batch, lambda each: each.to(device))

    def _as_one(self, batch: Any) -> Any:
        return self._model(self._moved(batch))

    def _by_tensors(self, batch: Any) -> Any:
        arguments, named = arguments_of(self._model, self._moved(batch))
        return self._model(*arguments, **named)


class _Unfit(ValueError):
    """The model ran, but the layer serves no fingerprint."""


def _cast(run: Callable[[Any], Any], dtype: torch.dtype) -> Callable[[Any], Any]:
    return lambda batch: run(mapped(batch, lambda each: each.to(dtype) if each.dtype in FLOATS else each))


def _none_of(failures: Sequence[tuple[str, Exception]]) -> ValueError:
    """What to say after every way has failed: the layer's fault where the model ran at all."""
    unfit = next((error for _, error in failures if isinstance(error, _Unfit | capture.NotCaptured)), None)
    if unfit is not None:
        return ValueError(str(unfit))
    causes = "; ".join(f"{name}, {said(error)}" for name, error in failures)
    return ValueError(f"the model takes the probes in no way that was tried ({causes}): pass probes= that it takes")


def said(error: BaseException) -> str:
    """An exception in one short line."""
    text = " ".join(str(error).split()).rstrip(".")
    return (
        f"{type(error).__name__}: {text if len(text) <= 160 else text[:157] + '...'}" if text else type(error).__name__
    )


def _pooled(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """(B, d) from (B, d), (B, T, d) or (B, C, *area)."""
    hidden = hidden.detach()
    if hidden.is_complex():
        hidden = torch.cat([hidden.real, hidden.imag], dim=1 if hidden.dim() > 3 else -1)
    hidden = hidden.float()
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
    """The positional and named tensors that a model's `forward` takes of a batch.

    Raises:
        ValueError: there is no tensor in the batch.
    """
    positional, names = _accepted(model)
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, Mapping):
        tensors = {str(name): value for name, value in batch.items() if isinstance(value, Tensor)}
        known = {name: value for name, value in tensors.items() if names is None or name in names}
        # Labels only make the model compute a loss that nobody looks at.
        inputs = {name: value for name, value in known.items() if name not in ("labels", "label")} or known
        if inputs:
            return (), inputs
    found = tensors_in(batch)
    _require_tensors(batch, found)
    return tuple(found[: max(1, positional)]), {}


def _in_parts(model: nn.Module, batch: Any) -> bool:
    if isinstance(batch, Mapping):
        names = _accepted(model)[1]
        return names is None or bool(names & {str(name) for name in batch})
    return isinstance(batch, Tensor | tuple | list)


def _require_tensors(batch: Any, found: Sequence[Tensor]) -> None:
    if not found:
        raise ValueError(
            f"a batch of type {type(batch).__name__} holds no tensor: give a tensor, or a mapping, a sequence or an "
            "object that holds some"
        )


def _accepted(model: nn.Module) -> tuple[int, set[str] | None]:
    """How many positional arguments `forward` cannot do without, and the names it takes (None: any)."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = sum(p.kind in plain and p.default is inspect.Parameter.empty for p in parameters)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters) and len(parameters) < 3:
        return needed, None
    return needed, {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _identity(layer: str, batch: Any) -> str:
    found = tensors_in(batch)
    digest = hashlib.sha256(f"batch {layer} {type(batch).__name__}{'' if found else batch}".encode())
    for name, each in enumerate(found):
        digest.update(f"{name}{each.dtype}{tuple(each.shape)}".encode())
        plain = (each if each.layout == torch.strided else each.to_dense()).cpu()
        digest.update(plain.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if each.numel() else b"")
    return digest.hexdigest()
