"""Job 9: observing, predicting, sweeping and leaping, as the scripts of `benchmarks/` time and print them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from job import BENCHMARKS, Part, Sitting, found, run_job

CASES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], int]] = {
    "predict": (("--layers", "12"), ("--layers", "1", "--repeats", "1"), 7),
    "observe": ((), ("--model", "tiny", "--repeats", "1"), 20),
    "sweep": ((), ("--repeats", "1", "--models", "tiny (2 x 64)"), 3),
    "leap": ((), ("--layers", "1", "--repeats", "1", "--steps", "60"), 5),
}
"""Script -> words at full size, words at reduced size, repetitions at full size."""


def printed(sitting: Sitting, name: str) -> Mapping[str, Any]:
    full, small, repeats = CASES[name]
    words = small if sitting.reduced else full
    said = sitting.command(BENCHMARKS / f"{name}.py", "--device", sitting.device, *words)
    return found(1 if sitting.reduced else repeats, printed=said.splitlines())


PARTS = tuple(Part(name, partial(printed, name=name), minutes=2) for name in CASES)

if __name__ == "__main__":
    sys.exit(run_job(9, PARTS))
