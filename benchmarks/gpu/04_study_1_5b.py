"""Job 4: the study of Qwen2.5-1.5B, one seed and then two more, each of which has to end within its call.

A state with its ring is 37 GB, and the older one stays until the newer is whole: more than many machines' disks have
free, so that none is written. Where there is room, `--set snapshots.every=10` makes a seed go on across calls.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from job import MINUTES, Part, Sitting, run_job
from studies import study_result

from leapverify.config.study import StudyConfig


def config(sitting: Sitting, seed: int = 42) -> StudyConfig:
    return sitting.config("qwen2.5-1.5b", seeds=[seed], snapshots__every=None, cascade__max_starts=1)


def study(sitting: Sitting, seed: int) -> Mapping[str, Any]:
    return study_result(sitting, sitting.study(config(sitting, seed), f"run-{seed}"))


PARTS = tuple(Part(f"seed {seed}", partial(study, seed=seed), minutes=MINUTES) for seed in (42, 43, 44))

if __name__ == "__main__":
    sys.exit(run_job(4, PARTS))
