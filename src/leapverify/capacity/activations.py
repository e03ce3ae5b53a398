"""How many bytes the passes of a model hold: formulas per token and layer, checked against measured peaks in the tests.

N tokens of a batch, h width, I feed-forward width, w bytes of a stored weight, c bytes of a value in a pass: 4, or 2
under autocast and with bfloat16 weights. The residual stream has the weights' type: autocast leaves it in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from leapverify.config.resolved import Resolved
from leapverify.core.weights import trainable
from leapverify.train import losses
from leapverify.train.adapters import adapter_sizes
from leapverify.train.models import build_model

FLOAT = 4
CPU_PROBE_TOKENS, GPU_PROBE_TOKENS = 2048, 16384
"""Positions of a forward pass over probes, as the fingerprinter takes them."""


@dataclass(frozen=True)
class ModelShapes:
    """The sizes of a model's tensors: all that a memory plan needs to know of it."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    dropout: float
    tied: bool
    parameters: tuple[int, ...]
    """Elements of every trained tensor."""
    moved: tuple[int, ...]
    """Of those that predictions move, in the order of the history's tensors."""
    cast: int
    """Elements that autocast keeps a bfloat16 copy of: all weights and biases of linear maps, the head among them."""
    frozen: int = 0
    """Elements of tensors that are not trained: with adapters, all of the model beneath them."""

    @property
    def total(self) -> int:
        """Trained parameters."""
        return sum(self.parameters)

    @property
    def whole(self) -> int:
        """All parameters."""
        return self.total + self.frozen

    @property
    def embedding(self) -> int:
        """Elements of the token embedding."""
        return self.vocabulary * self.hidden


def shapes_of(model: nn.Module, moves: Callable[[str], bool] | None = None) -> ModelShapes:
    """The sizes of a model's tensors; one on the meta device will do.

    Args:
        model: of the gpt2 or qwen2 family of transformers.
        moves: keeps the names of those that predictions move; all without it.
    """
    config: Any = model.config
    gpt2 = config.model_type == "gpt2"
    linear: dict[int, int] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            linear |= {id(each): each.numel() for each in module.parameters(recurse=False)}
    return ModelShapes(
        family=config.model_type,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads if gpt2 else config.num_key_value_heads,
        intermediate=(config.n_inner or 4 * config.hidden_size) if gpt2 else config.intermediate_size,
        vocabulary=config.vocab_size,
        dropout=config.resid_pdrop if gpt2 else config.attention_dropout,
        tied=config.tie_word_embeddings,
        parameters=tuple(each.numel() for each in trainable(model).values()),
        moved=tuple(each.numel() for each in trainable(model, moves).values()),
        cast=sum(linear.values()),
        frozen=sum(each.numel() for each in model.parameters() if not each.requires_grad),
    )


def model_shapes(config: Resolved, vocab_size: int) -> ModelShapes:
    """The sizes of the configured model's tensors, without allocating one.

    Args:
        config: the study.
        vocab_size: the tokenizer's, where the model names none.

    Raises:
        ValueError: the vocabulary or the context is too small for the data, or a pretrained model's configuration
            cannot be had.
    """
    with torch.device("meta"):
        model = _pretrained(config.model.pretrained) if config.model.pretrained else _random(config, vocab_size)
    rank = config.tuning.lora_rank
    if rank is None:
        return shapes_of(model, config.moves(model))
    sizes = tuple(adapter_sizes(model, config.model.family, rank))
    bare = shapes_of(model)
    return replace(bare, parameters=sizes, moved=sizes, cast=bare.cast + sum(sizes), frozen=bare.total)


def _random(config: Resolved, vocab_size: int) -> nn.Module:
    return build_model(config.model, seed=0, vocab_size=vocab_size, sequence_length=config.training.sequence_length)


def _pretrained(name: str) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    from leapverify.io.untrusted.paths import named
    from leapverify.train.hub import first_line, hub
    from leapverify.train.model_folder import NO_CODE, check_folder

    try:
        check_folder(named(name))
        with hub():
            found: nn.Module = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name, **NO_CODE), **NO_CODE)
    except Exception as error:
        raise ValueError(
            f"pretrained model {name!r} cannot be read ({first_line(error)}): give a local folder"
        ) from error
    return found


@dataclass(frozen=True)
class PassMemory:
    """Bytes that forward and backward passes of a model hold.

    Args:
        shapes: the model's.
        weight: w.
        compute: c.
        cuda: whether it runs on a GPU, whose kernels keep dropout as one byte an element and its randomness as a seed.
    """

    shapes: ModelShapes
    weight: int
    compute: int
    cuda: bool

    @property
    def autocast(self) -> bool:
        """Whether passes run in another type than the weights'."""
        return self.compute != self.weight

    @property
    def casts(self) -> int:
        """The bfloat16 copies of float32 weights, which autocast keeps until a pass ends."""
        return self.shapes.cast * self.compute if self.autocast else 0

    @property
    def casts_of_body(self) -> int:
        """The same without the head, through which fingerprints do not go."""
        return (self.shapes.cast - self.shapes.embedding) * self.compute if self.autocast else 0

    def saved(self, rows: int, length: int) -> int:
        """Activations that a training step keeps for its backward pass, logits aside."""
        s, tokens = self.shapes, rows * length
        per_token = s.layers * self._saved_per_token() + self._norm_saved() + self._dropout(s.family == "gpt2")
        probabilities = s.layers * 3 * FLOAT * rows * s.heads * length**2 if self._plain_attention else 0
        return tokens * (per_token + self._head_input()) + probabilities

    def _saved_per_token(self) -> int:
        """Of one layer: two norms, attention, feed-forward."""
        s, c = self.shapes, self.compute
        if s.family == "gpt2":
            # Inputs of the two linear maps after norms, the first one's output, the activation's.
            linear = 2 * s.hidden + 2 * s.intermediate
            return 2 * self._norm_saved() + c * linear + self._attention_saved() + 2 * self._dropout(True)
        # Autocast makes a copy of its own for each of the five maps behind a norm.
        inputs = (5 if self.autocast else 2) * s.hidden
        return 2 * self._norm_saved() + c * (inputs + 4 * s.intermediate) + self._attention_saved()

    @property
    def _plain_attention(self) -> bool:
        """The kernel on CPUs knows no dropout; attention then keeps its probabilities, in float32."""
        return self.shapes.dropout > 0 and not self.cuda

    def _attention_saved(self) -> int:
        """Of a token: q, k, v, the output and what the softmax needs; plain: q, k, v in float32, for all heads."""
        s = self.shapes
        if self._plain_attention:
            return 3 * FLOAT * s.hidden + self.compute * s.hidden
        pairs = s.hidden // s.heads * s.kv_heads
        return self.compute * (2 * s.hidden + 2 * pairs) + FLOAT * s.heads

    def _norm_saved(self) -> int:
        """Of a token: layer norm its input and two statistics; RMS norm its float32 input, its result and one."""
        h, w = self.shapes.hidden, self.weight
        return w * (h + 2) if self.shapes.family == "gpt2" else FLOAT * (h + 1) + w * h

    def _dropout(self, has: bool) -> int:
        """Of a token, of one dropout: its mask."""
        s = self.shapes
        return s.hidden * (1 if self.cuda else self.compute) if has and s.dropout > 0 else 0

    def _head_input(self) -> int:
        """Of a token: the hidden states without each row's last, and their copy in the type of the pass."""
        return self.shapes.hidden * (self.weight + (self.compute if self.autocast else 0))

    def loss_peak(self, tokens: int) -> int:
        """What is added at a training step's fullest moment, in the loss or in the backward pass of the head.

        Every token keeps its log-probabilities in float32. In the last part's backward pass come the gradients of
        these and of the logits; then, with the latter, the gradient of the head's weights, which autocast makes twice.
        """
        v, h = self.shapes.vocabulary, self.shapes.hidden
        part = min(tokens, max(1, losses.LARGEST_LOGITS // v))
        kept = FLOAT * tokens * v
        in_loss = kept + 2 * FLOAT * part * v
        rest = kept - FLOAT * part * v + self.compute * part * v
        head = 0 if self.shapes.frozen else v * h * (self.compute + (self.weight if self.autocast else 0))
        return max(in_loss, rest + head)

    def backward_extra(self) -> int:
        """What stands beside the gradients when they are complete.

        Tied, the embedding has two, of the lookup and of the head. Their sum is a third, unless autocast made the
        head's anew: that one is added to in place. A frozen one has none.
        """
        if self.shapes.frozen:
            return 0
        return self.shapes.embedding * self.weight * (1 if self.autocast else 2) if self.shapes.tied else 0

    def forward_peak(self, tokens: int) -> int:
        """A pass without gradients through the layers, autocast's copies aside."""
        s, c = self.shapes, self.compute
        # Of the embedding, the layer's input, its middle and the second norm; gpt2 also holds what attention gave.
        inner = c * (s.hidden + 2 * s.intermediate) if s.family == "gpt2" else c * 3 * s.intermediate
        # An adapter's update stands beside what it is added to.
        inner += c * s.intermediate if s.frozen else 0
        return tokens * (4 * self.weight * s.hidden + inner)

    def evaluation_peak(self, tokens: int) -> int:
        """A pass without gradients with its losses, autocast's copies aside."""
        v = self.shapes.vocabulary
        part = min(tokens, max(1, losses.LARGEST_LOGITS // v))
        raw = 0 if self.compute == FLOAT else self.compute
        through_head = tokens * self._head_input() + part * v * (raw + 2 * FLOAT)
        return max(self.forward_peak(tokens), through_head)

    def probe_tokens(self, characters: int) -> int:
        """Positions of a pass over probes of so many characters in all, of which none is more than a token."""
        return min(characters, GPU_PROBE_TOKENS if self.cuda else CPU_PROBE_TOKENS)
