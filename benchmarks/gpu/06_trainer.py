"""Job 6: our training step beside the Hugging Face Trainer, as `benchmarks/trainer.py` times them in one process."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from job import Part, Sitting, found, run_job

CASES: Mapping[str, tuple[str, ...]] = {
    "gpt2-124m": ("--model", "gpt2-124m", "--precision", "bfloat16"),
    "gpt2-124m, trainer compiled": ("--model", "gpt2-124m", "--precision", "bfloat16", "--trainer-compile"),
    "qwen2.5-1.5b": ("--model", "qwen2.5-1.5b", "--precision", "bfloat16"),
}
SMALL = ("--model", "tiny", "--steps", "2", "--rounds", "1", "--compile", "off")


def beside(sitting: Sitting, words: tuple[str, ...]) -> Mapping[str, Any]:
    result = sitting.benchmark("trainer.py", *(SMALL if sitting.reduced else words))
    return found(1 if sitting.reduced else 5, **result)


PARTS = tuple(Part(name, partial(beside, words=words), minutes=2.5) for name, words in CASES.items())

if __name__ == "__main__":
    sys.exit(run_job(6, PARTS))
