"""LoRA fine-tuning: the base model's weights rest, low-rank updates of its matrices are trained (arXiv 2106.09685)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from leapverify.race.config import TextLength
from leapverify.race.tasks.task import MadeTask, Material
from leapverify.race.tasks.text import Base, Reader

RANK = 8
ALPHA = 16
"""Updates are scaled by alpha over rank."""

MODULES = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "qwen2": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
"""By family: all matrices between embedding and head."""


def lora_task(length: TextLength, reader: Reader, base: Base) -> MadeTask:
    """The LoRA task, by AdamW alone: Muon is no common choice for factors of rank 8."""

    def make(seed: int, folder: Path) -> Material:
        return reader.material(with_adapters(base.load(seed, folder), reader.text.model.family, seed), seed)

    return MadeTask(
        name="lora",
        **length.model_dump(),
        schedule="cosine",
        optimizers=("adamw",),
        rates=("usual", "tuned"),
        make=make,
        ready=base.prepare,
    )


def with_adapters(model: nn.Module, family: str, seed: int) -> nn.Module:
    """The model with adapters of the library peft put into it, and nothing else left to train.

    They are put in place, not around the model, which therefore stays the transformers model that it was.

    Args:
        model: on the CPU.
        family: gpt2 or qwen2.
        seed: of the adapters' initial weights; no global RNG stream moves.

    Raises:
        ValueError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("the task lora needs the package peft: pip install 'leapverify[race]'") from error
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        bias="none",
        target_modules=MODULES[family],
        # GPT-2 keeps its matrices transposed.
        fan_in_fan_out=family == "gpt2",
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return inject_adapter_in_model(config, model)
