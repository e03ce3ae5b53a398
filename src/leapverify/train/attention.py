"""Causal attention without a mask: no kernel is lost to one, and nobody asks the device whether one is needed.

`transformers` looks at the position ids of every forward pass for several sequences packed into one row. Eager, that
waits for the device; compiled, it cannot wait and builds a (b, 1, t, t) mask instead, with which the flash kernels are
out of reach. The sequences of reference runs begin at position 0 and are padded at their ends, where causal attention
does not see it: they need no mask, and the numbers are those of plain `sdpa`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

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
