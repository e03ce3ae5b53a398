"""Next-token losses: per sequence for verification, averaged over tokens for training."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from leapverify.train.batches import Batch

LARGEST_LOGITS = 1 << 26
"""Logits held at once (256 MiB in float32); longer batches go through the head in parts."""

_PLAIN_HEADS = ("gpt2", "qwen2")


def sequence_losses(
    model: nn.Module, batch: Batch, *, count_padding: bool = False, autocast: torch.dtype | None = None
) -> tuple[Float32[Tensor, " b"], Int64[Tensor, " b"]]:
    """Mean negative log-likelihood of every sequence's next tokens; the first token is not predicted.

    Padding lies behind the real tokens, where causal attention does not see it: no attention mask is needed.

    Args:
        model: maps tokens (b, t) to logits (b, t, vocabulary), plain or in the field `.logits`.
        batch: on the model's device.
        count_padding: count predictions of padding too.
        autocast: precision of the forward pass, such as torch.bfloat16; the weights' own by default.

    Returns:
        The losses, nats per counted token (0 where a sequence counts none), and how many tokens each counts.
    """
    losses, index = _token_losses(model, batch, count_padding, autocast)
    rows, width = len(batch), batch.tokens.shape[1] - 1
    if index is None:
        return losses.view(rows, width).mean(dim=1), torch.full((rows,), width, device=losses.device)
    row = index // width
    sums = losses.new_zeros(rows).index_add(0, row, losses)
    tokens = row.new_zeros(rows).index_add(0, row, torch.ones_like(row))
    return sums / tokens.clamp(min=1), tokens


def mean_loss(
    model: nn.Module, batch: Batch, *, count_padding: bool = False, autocast: torch.dtype | None = None
) -> Float32[Tensor, ""]:
    """Mean negative log-likelihood over all counted tokens of a batch, nats; arguments as `sequence_losses`."""
    return _token_losses(model, batch, count_padding, autocast)[0].mean()


def _token_losses(
    model: nn.Module, batch: Batch, count_padding: bool, autocast: torch.dtype | None
) -> tuple[Tensor, Tensor | None]:
    """(n,) losses of the counted predictions and their flat indices into (b, t - 1); None where all are counted."""
    index = None if count_padding else batch.counted
    targets = batch.tokens[:, 1:].flatten()
    if index is not None:
        targets = targets[index]
    with _precision(batch.tokens.device, autocast):
        parts: Any = model
        if getattr(getattr(model, "config", None), "model_type", None) not in _PLAIN_HEADS:
            found = parts(batch.tokens)
            logits = getattr(found, "logits", found)[:, :-1].flatten(0, 1)
            return _cross_entropy(logits if index is None else logits[index], targets), index
        hidden = parts.base_model(batch.tokens).last_hidden_state[:, :-1].flatten(0, 1)
        hidden = hidden if index is None else hidden[index]
        return _through_head(parts.get_output_embeddings(), hidden, targets), index


def static_token_losses(
    model: nn.Module, tokens: Int64[Tensor, "b t"], autocast: torch.dtype | None
) -> Float32[Tensor, "b u"]:
    """Losses of all (b, t - 1) predictions, padding too: shapes that do not depend on what is padding."""
    whole = Batch(tokens, tokens, None)  # nobody looks at the mask of a batch that counts everything
    losses, _ = _token_losses(model, whole, True, autocast)
    return losses.view(tokens.shape[0], -1)


def _through_head(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """Losses from hidden states, a part at a time: the logits of a whole batch would be its largest tensor by far."""
    part = max(1, LARGEST_LOGITS // head.weight.shape[0])
    pairs = zip(torch.split(hidden, part), torch.split(targets, part), strict=True)
    return torch.cat([_cross_entropy(head(states), wanted) for states, wanted in pairs])


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")


def _precision(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
