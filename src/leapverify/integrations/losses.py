"""Losses for verdicts on leaps, sequence by sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

IGNORED = -100
"""Label of a token that does not count, as transformers has it."""


def causal_losses(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Next-token losses of a causal language model of transformers, sequence by sequence.

    The logits at position i are held against the label at i + 1; labels of -100 do not count. Without labels the
    token ids serve, where the attention mask is not 0.

    Args:
        model: takes `input_ids` and the like, and gives `.logits` (b, t, vocabulary).
        batch: as the model takes it; it is moved to the model's device.

    Returns:
        Mean losses (b,), nats per counted token, and how many tokens each counts.
    """
    device = next(model.parameters()).device
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    labels = moved.pop("labels", None)
    if labels is None:
        labels = moved["input_ids"]
        if "attention_mask" in moved:
            labels = labels.masked_fill(moved["attention_mask"] == 0, IGNORED)
    logits, targets = model(**moved).logits[:, :-1].float(), labels[:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    tokens = (targets != IGNORED).sum(dim=1)
    return losses.view_as(targets).sum(dim=1) / tokens.clamp(min=1), tokens.to(torch.float32)
