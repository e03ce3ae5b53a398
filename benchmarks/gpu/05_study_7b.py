"""Job 5: Qwen2.5-7B with cascades, one seed with each rounding of its bfloat16 weights.

No state of this size is written, so that a seed has to end within its call: 700 steps, four predictors at three
horizons, no more held-out sequences than the fixed ones and cascades of one predictor from one checkpoint are what the
floor leaves room for (benchmarks/roofline.md), with a part of the ring in host memory, the drawing of 7.6 billion
weights and the page-locking beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from job import MINUTES, Part, Sitting, run_job
from studies import study_result

from leapverify.config.study import StudyConfig

STEPS = 700
ROUNDINGS = ("nearest", "stochastic")


def config(sitting: Sitting, rounding: str = "nearest") -> StudyConfig:
    return sitting.config(
        "qwen2.5-7b",
        STEPS,
        seeds=[42],
        training__rounding=rounding,
        sweep__predictors=["hold", "linear", "quadratic-paper", "adam"],
        sweep__horizons=[5, 25, 100],
        verify__budget=64,
        cascade__predictors=["linear"],
        cascade__shapes=[[4, 25], [10, 10]],
        cascade__max_starts=1,
    )


def study(sitting: Sitting, rounding: str) -> Mapping[str, Any]:
    return study_result(sitting, sitting.study(config(sitting, rounding), rounding))


PARTS = tuple(Part(name, partial(study, rounding=name), minutes=MINUTES - 1) for name in ROUNDINGS)

if __name__ == "__main__":
    sys.exit(run_job(5, PARTS))
