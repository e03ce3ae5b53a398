"""Job 7: several seeds of a small model at once against one after another, as `benchmarks/seeds.py` times them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from job import Part, Sitting, found, run_job


def seeds(sitting: Sitting, model: str) -> Mapping[str, Any]:
    words = ("--steps", "2", "--rounds", "1", "--seeds", "2") if sitting.reduced else ("--precision", "bfloat16")
    return found(1 if sitting.reduced else 5, **sitting.benchmark("seeds.py", "--model", model, *words))


PARTS = tuple(Part(model, partial(seeds, model=model), minutes=4) for model in ("tiny", "small"))

if __name__ == "__main__":
    sys.exit(run_job(7, PARTS))
