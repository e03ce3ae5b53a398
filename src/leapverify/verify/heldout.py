"""Held-out batches and what a loss function makes of them: per-sequence losses and the tokens they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

Heldout: TypeAlias = Iterable[Any] | Callable[[], Iterable[Any]]
LossOutput: TypeAlias = Tensor | float | tuple[Tensor, Tensor]
LossFunction: TypeAlias = Callable[[nn.Module, Any], LossOutput]


def open_heldout(heldout: Heldout) -> Callable[[], Iterator[Any]]:
    """A function that goes through the held-out batches from their beginning each time it is called.

    Raises:
        ValueError: the set is empty, or an iterator that can be gone through only once.
    """
    if callable(heldout):
        return lambda: iter(heldout())
    if iter(heldout) is heldout:
        raise ValueError(
            f"the held-out set is a {type(heldout).__name__}, which can be read only once: "
            "give a list of batches or a function that returns a new iterator"
        )
    if isinstance(heldout, Sized) and len(heldout) == 0:
        raise ValueError("the held-out set is empty (0 batches): give at least one batch")
    return lambda: iter(heldout)


_FORMS = "return a scalar, one loss a sequence (B,), or (losses, tokens)"


def loss_rows(output: Any) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Losses and their weights as two vectors, from any form that a loss function may return.

    Args:
        output: a scalar (the batch is then the unit), (B,) losses of B sequences, or a pair of such losses and the
            numbers of tokens that each stands for; nats per token.

    Returns:
        Losses (b,) and tokens (b,), on the device they came from. Tokens are 1 where none were given. A sequence of no
        tokens has loss 0.

    Raises:
        ValueError: any other form.
    """
    if output is None:
        raise ValueError(f"the loss function returned nothing: {_FORMS}")
    if isinstance(output, tuple) and len(output) != 2:
        raise ValueError(f"the loss function returned a tuple of {len(output)}: {_FORMS}")
    losses, tokens = output if isinstance(output, tuple) else (output, None)
    try:
        rows = torch.as_tensor(losses).detach()
        weights = None if tokens is None else torch.as_tensor(tokens, device=rows.device).detach().reshape(-1).float()
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"the loss function returned a {type(output).__name__}, which is no loss: {_FORMS}") from error
    if rows.ndim > 1 or rows.numel() == 0:
        raise ValueError(f"the loss function returned a tensor of shape {tuple(rows.shape)}: {_FORMS}")
    rows = rows.reshape(-1)
    if weights is None:
        return rows, torch.ones_like(rows, dtype=torch.float32)
    if weights.shape != rows.shape:
        raise ValueError(
            f"the loss function returned {rows.numel()} losses and {weights.numel()} token counts: return as many"
        )
    return torch.where(weights > 0, rows, torch.zeros_like(rows)), weights
