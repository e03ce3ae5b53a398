"""The activation fingerprint: what a model makes of a fixed set of probes, one vector per probe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from leapverify.core.shards import reshard
from leapverify.core.undisturbed import undisturbed
from leapverify.observe import capture, packing
from leapverify.observe.packing import ProbeBatch
from leapverify.observe.probes import ProbeSet

Pooling = Literal["mean", "last"]


class Encoder(Protocol):
    """What is asked of a tokenizer; those of transformers fit."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""


class Fingerprinter:
    """Takes the fingerprint a_t of a model's present weights: pooled hidden states of every probe.

    a_t[i] = mean over the tokens of probe i of h(probe i), h the final hidden state (after the last norm, before
    the head) or the output of a named layer; forward in eval mode without gradients, and without a trace.

    Args:
        model: any module that takes a (rows, T) batch of token ids, or of what the probes are. Compiled and
            DistributedDataParallel models are looked into; `fully_shard` and tensor-parallel ones run as a whole.
        probes: a probe set or texts (then `tokenizer` is needed); or token ids, one 1-D integer tensor per probe; or
            one float tensor per probe, as the model takes them without the batch dimension.
        tokenizer: object with `encode(text) -> list[int]`.
        layer: name of a module; None for the final hidden states.
        pooling: `mean` over the tokens of a probe, or its `last` token.
        masked: pool over real tokens only. False pads every probe to the longest with token 0, without attention mask,
            and pools over padding too: an artefact of the published code, kept as a switch.
        autocast: run the forward pass under autocast to this type.
        max_tokens: probes are cut to this many tokens.
        batch_tokens: positions to a forward pass; bounds memory, changes the result by rounding at most. None for
            2048 on the CPU, where activations then stay in its cache, and 16384 elsewhere.

    Raises:
        ValueError: texts without tokenizer, a probe without tokens, with unknown tokens or longer than the model's
            context, no such layer, an unknown pooling.

    Source: arXiv 2602.19580, section 2.2.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4), nn.LayerNorm(4), nn.Linear(4, 10))
        >>> probes = [torch.tensor([1, 2, 3]), torch.tensor([4, 5])]
        >>> Fingerprinter(model, probes)().shape  # (probes, d)
        torch.Size([2, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        probes: ProbeSet | Sequence[str] | Tensor | Sequence[Tensor],
        *,
        tokenizer: Encoder | None = None,
        layer: str | None = None,
        pooling: Pooling = "mean",
        masked: bool = True,
        autocast: torch.dtype | None = None,
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling {pooling!r} is unknown: use one of {', '.join(get_args(Pooling))}")
        for name, value in (("max_tokens", max_tokens), ("batch_tokens", batch_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} leaves nothing of a probe: use 1 or more")
        self._model = capture.unwrapped(model)
        self._pooling, self._autocast = pooling, autocast
        self._source = capture.source_of(self._model, layer)
        inputs = _inputs(probes, tokenizer, max_tokens)
        _check_tokens(self._model, inputs)
        batch_tokens = batch_tokens or (2048 if self._device().type == "cpu" else 16384)
        self._batches = list(_batches(self._model, inputs, masked, batch_tokens))
        self._order = torch.tensor([i for batch in self._batches for i in batch.probes]).argsort()
        self.identity = _identity(probes, inputs, self._source.layer, pooling, masked, autocast)
        """sha256 of probes, tokens, layer, pooling, masking and type: only equal ones may be compared."""

    @property
    def positions(self) -> int:
        """Positions that one fingerprint computes, padding included."""
        return sum(len(batch.inputs) * _width(batch.inputs) for batch in self._batches)

    def __call__(self) -> Float[Tensor, "probes d"]:
        """The fingerprint of the present weights, float32 on the CPU, one row per probe in the order given.

        Where ranks hold parts of the weights, all of them take it at the same point and get the same rows; they hold
        their parts alone again afterwards.

        Raises:
            ValueError: the layer was not reached, or gave something that cannot be pooled.
        """
        try:
            with undisturbed(self._model), self._precision():
                pooled = torch.cat([self._pooled(batch) for batch in self._batches_on(self._device())])
        finally:
            reshard(self._model)
        return pooled.float().cpu()[self._order]

    def _pooled(self, batch: ProbeBatch) -> Tensor:
        hidden = self._source(batch).detach()
        if hidden.dim() == 2 and batch.segments is None and len(hidden) == len(batch.probes):
            return hidden
        if hidden.dim() != 3 or hidden.shape[:2] != batch.inputs.shape[:2]:
            raise ValueError(
                f"layer {self._source.layer!r} gave shape {tuple(hidden.shape)} for inputs of shape "
                f"{tuple(batch.inputs.shape)}: name a layer with layer=... that gives (rows, tokens, d)"
            )
        return pool(hidden, batch, self._pooling)

    def _device(self) -> torch.device:
        first = next(self._model.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def _precision(self) -> torch.autocast:
        enabled = self._autocast is not None
        return torch.autocast(self._device().type, dtype=self._autocast, enabled=enabled)

    def _batches_on(self, device: torch.device) -> list[ProbeBatch]:
        """The batches on a device; they stay there for the next call."""
        if self._batches[0].inputs.device != device:
            self._batches = [batch.to(device) for batch in self._batches]
        return self._batches


def pool(hidden: Float[Tensor, "rows T d"], batch: ProbeBatch, pooling: Pooling) -> Float[Tensor, "probes d"]:
    """Mean over each probe's positions, or its last position; in float32 at least.

    Padded positions are never read, so nothing that stands in them can reach the result.
    """
    flat = hidden.flatten(0, 1)
    if pooling == "last":
        ends = torch.cat([batch.offsets[1:], batch.offsets.new_tensor([len(batch.gather)])]) - 1
        return flat[batch.gather[ends]]
    flat = flat if flat.dtype == torch.float64 else flat.float()
    # The hidden states serve as the table of an embedding bag: one deterministic pass that gathers and averages.
    return nn.functional.embedding_bag(batch.gather, flat, batch.offsets, mode="mean")


def _batches(model: nn.Module, inputs: list[Tensor], masked: bool, batch_tokens: int) -> Any:
    tokens = not inputs[0].is_floating_point()
    if not masked:
        if not tokens:
            raise ValueError("masked=False pads token ids, but the probes are float tensors: leave masked at True")
        return packing.padded(inputs, batch_tokens)
    if tokens and capture.packs(model, max(len(probe) for probe in inputs)):
        return packing.packed(inputs, batch_tokens)
    return packing.grouped(inputs, batch_tokens)


def _width(inputs: Tensor) -> int:
    return inputs.shape[1] if inputs.dim() > 1 else 1


def _inputs(probes: Any, tokenizer: Encoder | None, max_tokens: int | None) -> list[Int[Tensor, " _"]]:
    if len(probes) == 0:
        raise ValueError("a fingerprint needs at least one probe, and none was given")
    if isinstance(probes, ProbeSet):
        probes = probes.texts
    if isinstance(probes[0], str):
        if tokenizer is None:
            raise ValueError("the probes are texts: pass tokenizer=, an object with encode(text), or give token ids")
        probes = [torch.tensor(tokenizer.encode(text), dtype=torch.int64) for text in probes]
    inputs = [torch.as_tensor(probe).detach().cpu() for probe in probes]
    for i, probe in enumerate(inputs):
        if probe.numel() == 0:
            raise ValueError(f"probe {i} has no tokens: every probe needs at least one")
        if not probe.is_floating_point() and probe.dim() != 1:
            raise ValueError(f"probe {i} has shape {tuple(probe.shape)}: token ids are 1-D, one tensor per probe")
    return [probe if probe.is_floating_point() else probe[:max_tokens].long() for probe in inputs]


def _check_tokens(model: nn.Module, inputs: list[Tensor]) -> None:
    """On an accelerator an index out of range ends the process, so it is looked for here."""
    if inputs[0].is_floating_point() or not capture.is_transformers(model):
        return
    size = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    context = getattr(model.config, "max_position_embeddings", None)
    for i, probe in enumerate(inputs):
        if not 0 <= int(probe.min()) <= int(probe.max()) < size:
            raise ValueError(f"probe {i} has token {int(probe.max())}, the model's embedding {size}: use its tokenizer")
        if context is not None and len(probe) > context:
            raise ValueError(
                f"probe {i} has {len(probe)} tokens, the model's context {context}: pass max_tokens={context}"
            )


def _identity(probes: Any, inputs: list[Tensor], layer: str, pooling: str, masked: bool, autocast: Any) -> str:
    digest = hashlib.sha256()
    about = {"layer": layer, "pooling": pooling, "masked": masked, "autocast": str(autocast)}
    about["probes"] = probes.identity if isinstance(probes, ProbeSet) else None
    digest.update(json.dumps(about, sort_keys=True).encode())
    for probe in inputs:
        digest.update(f"{probe.dtype}{tuple(probe.shape)}".encode())
        digest.update(probe.contiguous().numpy().tobytes())
    return digest.hexdigest()
