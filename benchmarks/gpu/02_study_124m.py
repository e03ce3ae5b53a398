"""Job 2: the study of GPT-2 124M by the paper's protocol, seeds 42 to 46, 2000 steps.

Cascades start from the first two stable checkpoints of a seed: from all of them they would take four times as long as
everything else. A state every fifth checkpoint keeps the disk out of it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from job import Part, Sitting, run_job
from studies import study_result


def study(sitting: Sitting) -> Mapping[str, Any]:
    seeds = [42] if sitting.reduced else [42, 43, 44, 45, 46]
    every = 2 if sitting.reduced else 5
    config = sitting.config("gpt2-124m", seeds=seeds, cascade__max_starts=2, snapshots__every=every)
    return study_result(sitting, sitting.study(config, "study"))


PARTS = (Part("study", study),)

if __name__ == "__main__":
    sys.exit(run_job(2, PARTS))
