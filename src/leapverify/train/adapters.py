"""Low-rank adapters: the weights that there are rest, low-rank updates of their matrices train (arXiv 2106.09685)."""

from __future__ import annotations

import torch
from torch import nn

MODULES = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "qwen2": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
"""By family: all matrices between embedding and head."""


def with_adapters(model: nn.Module, family: str, seed: int, *, rank: int = 8, alpha: float = 16) -> nn.Module:
    """The model with adapters of the library peft put into it, and nothing else left to train.

    W x becomes W x + (alpha/rank) B A x, A (rank, inputs) random, B (outputs, rank) zero. They are put in place, not
    around the model, which therefore stays the transformers model that it was.

    Args:
        model: on the CPU.
        family: gpt2 or qwen2.
        seed: of the adapters' initial weights; no global RNG stream moves.
        rank: of the updates.
        alpha: updates are scaled by alpha over rank.

    Raises:
        ValueError: peft is not installed, or another family.
    """
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=_modules(family),
        # GPT-2 keeps its matrices transposed.
        fan_in_fan_out=family == "gpt2",
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return inject_adapter_in_model(config, model)


def require_peft() -> None:
    """Look whether adapters can be made.

    Raises:
        ValueError: peft is not installed.
    """
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ValueError("training by lora needs the package peft: pip install 'leapverify[race]'") from error


def adapter_sizes(model: nn.Module, family: str, rank: int) -> list[int]:
    """Elements of every adapter that `with_adapters` would put in, in the order of its parameters; nothing is made.

    Args:
        model: without adapters; one on the meta device will do.
        family, rank: as for `with_adapters`.
    """
    sizes: list[int] = []
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _modules(family):
            inputs, outputs = module.weight.shape
            if isinstance(module, nn.Linear):
                inputs, outputs = outputs, inputs
            sizes += [rank * int(inputs), rank * int(outputs)]
    return sizes


def _modules(family: str) -> list[str]:
    if family not in MODULES:
        raise ValueError(f"no adapters are known for a model of family {family!r}: give one of {', '.join(MODULES)}")
    return MODULES[family]
