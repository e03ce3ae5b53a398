"""The losses of a run as two functions, as they are written or compiled whole: body, head and cross-entropy together.

The head belongs inside: the float32 logits of a batch are its largest tensor by far, and a compiler need not write
them out. `causal_attention`, at the end, makes a model of transformers run on its causal attention without a mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from leapverify.train.batches import Batch
from leapverify.train.losses import mean_loss, sequence_losses, static_token_losses

Mode = Literal["off", "default", "reduce-overhead"]


class Losses:
    """What training steps and verification ask of a model.

    Compiled, shapes are static: every shape of batch is compiled once (tens of seconds), padded positions go through
    the head and are then weighted with 0, and all else is as in the eager functions, up to float rounding. Weights are
    arguments of the compiled code, so neither writing them in place nor a copy of the model compiles anything anew.
    Dropout draws other masks than eager code does, from the same random streams.

    With `reduce-overhead` a GPU replays forward and backward passes as CUDA graphs (clipping and the optimizer stay
    outside). A replay overwrites what the one before has returned, so losses are handed out as copies. Gradients live
    in the graphs' memory and must be let go of before the next step, as `train_step` does; that memory stays with the
    graphs, where `default` gives it back for a sweep to use. Not run on a GPU yet.

    Args:
        count_padding: count predictions of padding too.
        autocast: precision of forward passes; the weights' own by default.
        mode: off, default (`torch.compile`), or reduce-overhead.

    Raises:
        ValueError: there is no such mode.
    """

    def __init__(self, *, count_padding: bool = False, autocast: torch.dtype | None = None, mode: Mode = "off") -> None:
        if mode not in ("off", "default", "reduce-overhead"):
            raise ValueError(f"compile mode {mode!r} is unknown: use off, default or reduce-overhead")
        self._count_padding, self._autocast, self._mode = count_padding, autocast, mode
        self._mean = self._sequences = None
        if mode != "off":
            self._mean, self._sequences = _compiled(_static_mean, mode), _compiled(_static_sequences, mode)

    def mean(self, model: nn.Module, batch: Batch) -> Float32[Tensor, ""]:
        """Mean negative log-likelihood over all counted tokens of a batch, nats: what training lowers."""
        if self._mean is None:
            return mean_loss(model, batch, count_padding=self._count_padding, autocast=self._autocast)
        self._begin()
        return self._mean(model, batch.tokens, self._counted(batch), self._autocast).clone()

    def sequences(self, model: nn.Module, batch: Batch) -> tuple[Float32[Tensor, " b"], Int64[Tensor, " b"]]:
        """Losses of every sequence, nats per counted token, and how many tokens each counts."""
        if self._sequences is None:
            return sequence_losses(model, batch, count_padding=self._count_padding, autocast=self._autocast)
        self._begin()
        losses, tokens = self._sequences(model, batch.tokens, self._counted(batch), self._autocast)
        return losses.clone(), tokens.clone()

    def _counted(self, batch: Batch) -> Tensor | None:
        return None if self._count_padding else batch.mask

    def _begin(self) -> None:
        if self._mode == "reduce-overhead":
            # Without it the graphs could not tell that results of earlier steps may be overwritten.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


def _static_mean(model: nn.Module, tokens: Tensor, real: Tensor | None, autocast: torch.dtype | None) -> Tensor:
    losses = static_token_losses(model, tokens, autocast)
    if real is None:
        return losses.mean()
    counted = real[:, 1:].to(losses.dtype)
    return (losses * counted).sum() / counted.sum()


def _static_sequences(
    model: nn.Module, tokens: Tensor, real: Tensor | None, autocast: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    losses = static_token_losses(model, tokens, autocast)
    if real is None:
        return losses.mean(dim=1), torch.full((len(tokens),), losses.shape[1], device=losses.device)
    counted = real[:, 1:].to(losses.dtype)
    counts = counted.sum(dim=1)
    return (losses * counted).sum(dim=1) / counts.clamp(min=1.0), counts.long()


def _compiled(function: Callable[..., Any], mode: Mode) -> Callable[..., Any]:
    # Newer torch counts the compilations of every such call by themselves, so that many runs in one process do not
    # use up one limit together.
    alone = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}
    return torch.compile(
        function,
        fullgraph=True,
        dynamic=False,
        mode=None if mode == "default" else mode,
        **alone,  # type: ignore[call-overload]
    )


CAUSAL = "leapverify-causal"
"""Name of the attention: `sdpa`, and no mask unless a whole 4-D one is given."""


def causal_attention(model: nn.Module) -> nn.Module:
    """The same model, attending as described above; models that are not of transformers, or not on sdpa, stay.

    A 2-D attention mask is not looked at any more: rows must be padded at their ends, if at all. Nor may a cache of
    keys be gone on from with more than one token a pass.
    """
    parts: Any = model
    if getattr(getattr(parts, "config", None), "_attn_implementation", None) == "sdpa":
        from transformers import AttentionInterface

        # A name that stands in the table of attentions, but not in that of masks, gets no mask made.
        AttentionInterface.register(CAUSAL, AttentionInterface._global_mapping["sdpa"])
        parts.set_attn_implementation(CAUSAL)
    return model
