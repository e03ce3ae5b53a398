"""Job 3: the ladder of the paper's measuring artefacts at GPT-2 124M, two seeds, each switch alone and all together."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from typing import Any

from job import Part, Sitting, TimeOver, found, let_go, run_job, tell
from studies import study_result

from leapverify.runs import Paused
from leapverify.runs.progress import Progress
from leapverify.study.ladder import run_ladder


def _config(sitting: Sitting) -> Any:
    seeds = [42] if sitting.reduced else [42, 43]
    every = 2 if sitting.reduced else 5
    return sitting.config("gpt2-124m", seeds=seeds, cascade__kinds=[], snapshots__every=every)


def base(sitting: Sitting) -> Mapping[str, Any]:
    return study_result(sitting, sitting.study(_config(sitting), "ladder"))


def ladder(sitting: Sitting) -> Mapping[str, Any]:
    config, out = _config(sitting), sitting.state / "ladder"

    def watch(progress: Progress) -> None:
        tell(progress)
        if progress.phase == "note":  # of the next rung, among others
            let_go(out)

    try:
        table = run_ladder(config, out, device=sitting.device, watcher=watch, minutes=sitting.minutes_left)
    except Paused as paused:
        raise TimeOver(str(paused)) from paused
    with table.with_suffix(".csv").open(newline="") as lines:
        return found(len(config.seeds), rungs=list(csv.DictReader(lines)))


PARTS = (Part("base", base), Part("ladder", ladder))

if __name__ == "__main__":
    sys.exit(run_job(3, PARTS))
