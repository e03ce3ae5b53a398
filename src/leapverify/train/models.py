"""Language models by their architecture: randomly initialised from a seed, or read from a pretrained folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from leapverify.io.untrusted import limits
from leapverify.io.untrusted.paths import named
from leapverify.train.hub import first_line, hub
from leapverify.train.losses_compiled import causal_attention
from leapverify.train.model_folder import NO_CODE, check_folder


class ModelSpec(BaseModel):
    """An architecture of the GPT-2 or Qwen2 family."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["gpt2", "qwen2"] = "gpt2"
    layers: int = Field(default=2, ge=1, le=limits.LAYERS)
    hidden: int = Field(default=64, ge=1)
    heads: int = Field(default=4, ge=1)
    kv_heads: int | None = Field(default=None, ge=1)
    """Key-value heads (qwen2); as many as heads by default."""
    intermediate: int | None = Field(default=None, ge=1)
    """Width of the feed-forward part; 4 x hidden by default."""
    vocab_size: int | None = Field(default=None, ge=2)
    """The tokenizer's by default."""
    context: int | None = Field(default=None, ge=2)
    """Longest sequence, tokens; the sequence length by default."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """gpt2: embeddings, attention and residuals; qwen2: attention."""
    tie_embeddings: bool = True
    pretrained: str | None = None
    """Name or local folder to take weights and architecture from; everything else but family is then unused."""

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelSpec:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of heads {self.heads}: change one of them")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is no multiple of kv_heads {self.kv_heads}: change one of them")
        if self.family == "qwen2" and self.hidden // self.heads % 2:
            raise ValueError(f"hidden/heads {self.hidden // self.heads} is odd: rotary positions need it even")
        return self


def gpt2_124m_spec() -> ModelSpec:
    """GPT-2 small: 124,439,808 parameters at 50,257 tokens."""
    return ModelSpec(
        family="gpt2", layers=12, hidden=768, heads=12, vocab_size=50257, context=1024, dropout=0.1, tie_embeddings=True
    )


def qwen_1_5b_spec() -> ModelSpec:
    """Qwen2.5-1.5B: 1.54 billion parameters."""
    return ModelSpec(
        family="qwen2",
        layers=28,
        hidden=1536,
        heads=12,
        kv_heads=2,
        intermediate=8960,
        vocab_size=151936,
        context=131072,
        tie_embeddings=True,
    )


def qwen_7b_spec() -> ModelSpec:
    """Qwen2.5-7B: 7.62 billion parameters."""
    return ModelSpec(
        family="qwen2",
        layers=28,
        hidden=3584,
        heads=28,
        kv_heads=4,
        intermediate=18944,
        vocab_size=152064,
        context=131072,
        tie_embeddings=False,
    )


def build_model(
    config: Mapping[str, Any] | ModelSpec,
    *,
    seed: int,
    vocab_size: int,
    sequence_length: int,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """A causal language model on the CPU, in training mode; its rows may be padded at their ends only.

    Random weights are drawn in float32 whatever the type, so that a seed means one initialisation; then each is rounded
    and its float32 form let go. Host memory at most: 4 bytes a parameter, and the largest parameter once more.

    Args:
        config: the architecture.
        seed: of the random initial weights; no global RNG stream moves.
        vocab_size: the tokenizer's, used where the architecture names none.
        sequence_length: T, tokens; used where the architecture names no context.
        dtype: of the parameters; buffers, such as the frequencies of rotary positions, stay float32.

    Raises:
        ValueError: the vocabulary or the context is too small for the data, or pretrained weights cannot be had.
    """
    spec = config if isinstance(config, ModelSpec) else ModelSpec(**config)
    if spec.pretrained is not None:
        model = _pretrained(spec.pretrained, dtype)
        _check_fit(model.config.vocab_size, model.config.max_position_embeddings, vocab_size, sequence_length)
        return causal_attention(model)
    _check_fit(spec.vocab_size or vocab_size, spec.context or sequence_length, vocab_size, sequence_length)
    with torch.random.fork_rng(devices=[]):
        # The CPU generator alone: torch.manual_seed would also move the streams of every GPU.
        torch.default_generator.manual_seed(seed)
        model = _random(spec, vocab_size, sequence_length)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return causal_attention(model).train()


def parameter_count(spec: ModelSpec, vocab_size: int | None = None, sequence_length: int = 1024) -> int:
    """The number of parameters of an architecture, tied ones once; nothing is allocated."""
    if spec.vocab_size is None and vocab_size is None:
        raise ValueError("the architecture names no vocab_size: give the tokenizer's")
    with torch.device("meta"):
        model = _random(spec, vocab_size or 0, sequence_length)
    return sum(parameter.numel() for parameter in model.parameters())


def _check_fit(vocab: int, context: int, tokens: int, length: int) -> None:
    if vocab < tokens:
        raise ValueError(f"the model's vocab_size {vocab} is below the tokenizer's {tokens}: raise it or leave it out")
    if context < length:
        raise ValueError(
            f"the model's context {context} is below the sequence length {length}: raise it or leave it out"
        )


def _random(spec: ModelSpec, vocab_size: int, sequence_length: int) -> nn.Module:
    import transformers

    config = _gpt2(spec) if spec.family == "gpt2" else _qwen2(spec)
    config.update(
        vocab_size=spec.vocab_size or vocab_size,
        tie_word_embeddings=spec.tie_embeddings,
        max_position_embeddings=spec.context or sequence_length,
        use_cache=False,
        # No token is special to the model: ids beyond a small vocabulary are refused by transformers.
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    if spec.family == "gpt2":
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**config))
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**config))


def _gpt2(spec: ModelSpec) -> dict[str, Any]:
    if spec.kv_heads not in (None, spec.heads):
        raise ValueError(f"kv_heads {spec.kv_heads} is not heads {spec.heads}: gpt2 has no grouped heads, use qwen2")
    return {
        "n_layer": spec.layers,
        "n_embd": spec.hidden,
        "n_head": spec.heads,
        "n_inner": spec.intermediate,
        # GPT-2's own gelu_new is this very function, written as six operations instead of one.
        "activation_function": "gelu_pytorch_tanh",
        "resid_pdrop": spec.dropout,
        "embd_pdrop": spec.dropout,
        "attn_pdrop": spec.dropout,
    }


def _qwen2(spec: ModelSpec) -> dict[str, Any]:
    return {
        "num_hidden_layers": spec.layers,
        "hidden_size": spec.hidden,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads or spec.heads,
        "intermediate_size": spec.intermediate or 4 * spec.hidden,
        "attention_dropout": spec.dropout,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    }


def _pretrained(name: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        check_folder(named(name))
        with hub():
            model = AutoModelForCausalLM.from_pretrained(
                name, dtype=dtype, attn_implementation="sdpa", weights_only=True, **NO_CODE
            )
    except Exception as error:  # Broken files and missing networks surface as many unrelated classes.
        remedy = "give a local folder"
        raise ValueError(f"pretrained model {name!r} cannot be loaded ({first_line(error)}): {remedy}") from error
    model.config.use_cache = False
    return model.train()
