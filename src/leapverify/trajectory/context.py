"""What a caller may tell predictors beside snapshots: names of tensors, held-out losses of candidates, gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from leapverify.core.weights import Tensors


@dataclass(frozen=True)
class Layout:
    """Which tensors of which model a history holds."""

    names: tuple[str, ...]
    """Name of each tensor, in order, as `named_parameters` gives them."""
    family: str | None = None
    """What a transformers configuration calls `model_type`: gpt2, llama, qwen2, gpt_neox ...; None: something else."""
    heads: int | None = None
    """Attention heads."""
    kv_heads: int | None = None
    """Key-value heads."""

    @classmethod
    def of(cls, model: nn.Module, names: Sequence[str]) -> Layout:
        """The layout of some of a model's parameters.

        Args:
            model: one of the library transformers, or any other, of which only the names are known.
            names: of the parameters, in the order of the history's tensors.
        """
        config = getattr(model, "config", None)
        heads = getattr(config, "num_attention_heads", None)
        return cls(
            tuple(names),
            getattr(config, "model_type", None),
            heads,
            getattr(config, "num_key_value_heads", None) or heads,
        )


@runtime_checkable
class Selection(Protocol):
    """Held-out losses by which a predictor chooses among its candidates; its verifier reads other sequences."""

    def loss(self, weights: Tensors) -> float:
        """Mean loss with these weights in the model, nats per token, on the same sequences until the next push.

        Args:
            weights: of the history's shapes; the model's own parameters are measured where they are, others put into it
                and taken out again.
        """
        ...


@runtime_checkable
class Gradients(Protocol):
    """Losses and gradients on training batches that the run itself has not trained on so far."""

    def gradient(self, weights: Tensors, draw: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Mean training loss with these weights in the model, and its gradient for each of them.

        Args:
            weights: as for `Selection.loss`.
            draw: number of a fresh batch, from 0; the same number gives the same batch until the next push.

        Returns:
            The loss, a scalar, and the gradients, float32, all on the model's device; valid until the next call.
        """
        ...
