"""LoRA fine-tuning: the base model's weights rest, low-rank updates of its matrices are trained (arXiv 2106.09685)."""

from __future__ import annotations

from pathlib import Path

from leapverify.race.config import TextLength
from leapverify.race.tasks.task import MadeTask, Material
from leapverify.race.tasks.text import Base, Reader
from leapverify.train.adapters import with_adapters


def lora_task(length: TextLength, reader: Reader, base: Base) -> MadeTask:
    """The LoRA task, by AdamW alone: Muon is no common choice for low-rank factors."""

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
