"""How the models that NiNo's graph is built for name their tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Names of a transformer's tensors; those inside a block follow the block's own name."""

    words: str
    positions: str | None
    block: str
    before: str
    """Norm before attention."""
    attention: tuple[str, ...]
    """Query, key and value, or the one layer that joins them."""
    out: str
    between: str
    """Norm before the feed-forward layers."""
    up: tuple[str, ...]
    down: str
    final: str
    head: tuple[str, ...]
    """Words out, where these are not the words in."""
    by_source: bool = False
    """Whether matrices are stored (inputs, outputs)."""
    parallel: bool = False
    """Whether the feed-forward layers read what attention reads."""


GPT2 = Family(
    words="wte.weight",
    positions="wpe.weight",
    block="h.{}.",
    before="ln_1",
    attention=("attn.c_attn",),
    out="attn.c_proj",
    between="ln_2",
    up=("mlp.c_fc",),
    down="mlp.c_proj",
    final="ln_f",
    head=("lm_head.weight",),
    by_source=True,
)
LLAMA = Family(
    words="embed_tokens.weight",
    positions=None,
    block="layers.{}.",
    before="input_layernorm",
    attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out="self_attn.o_proj",
    between="post_attention_layernorm",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    final="norm",
    head=("lm_head.weight",),
)
PYTHIA = Family(
    words="embed_in.weight",
    positions=None,
    block="layers.{}.",
    before="input_layernorm",
    attention=("attention.query_key_value",),
    out="attention.dense",
    between="post_attention_layernorm",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    final="final_layer_norm",
    head=("embed_out.weight", "lm_head.weight"),
    parallel=True,
)

FAMILIES = {"gpt2": GPT2, "llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA, "gpt_neox": PYTHIA}
"""`model_type` of the library transformers -> names."""
