"""Job 10: the memory plan against the peaks that the device reports, at reduced and at full sizes, phase by phase."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from job import BENCHMARKS, Part, Sitting, found, run_job

from leapverify.capacity.memory import PHASES, Place
from leapverify.config.overrides import with_settings
from leapverify.config.presets import preset
from leapverify.config.study import StudyConfig

sys.path.append(str(BENCHMARKS))

import memory


def compared(sitting: Sitting, name: str, config: StudyConfig) -> dict[str, Any]:
    """Planned and measured bytes of each phase that was measured."""
    folder = sitting.state / "run"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "text").mkdir(parents=True)
    text = memory.text_folder(folder / "text")
    peaks = memory.measured(config, text, folder / "study", sitting.device)
    plan = memory.planned(config, sitting.device)
    place: Place = "device" if sitting.device == "cuda" else "host"
    shutil.rmtree(folder)
    phases = [phase for phase in PHASES if phase in peaks]
    return {"case": name, **{phase: {"plan": plan.peak(place, phase), "measured": peaks[phase]} for phase in phases}}


def small(sitting: Sitting) -> Mapping[str, Any]:
    sizes, precisions = list(memory.CASES), list(memory.PRECISIONS)
    if sitting.reduced:
        sizes, precisions = sizes[:1], precisions[:1]
    rows = [
        compared(sitting, f"{name}, {precision}, {size}", memory.case(name, precision, size))
        for size in sizes
        for name in memory.PRESETS
        for precision in precisions
    ]
    return found(len(rows), cases=rows)


def full(sitting: Sitting, name: str) -> Mapping[str, Any]:
    """A preset's own model and batches, a short run, every phase of it."""
    config = memory.case(name, "float32", "logits") if sitting.reduced else with_settings(preset(name), memory.COMMON)
    return found(1, cases=[compared(sitting, name, config)])


NAMES = ("gpt2-124m", "qwen2.5-1.5b", "qwen2.5-7b")
PARTS = (
    Part("reduced sizes", small, minutes=4),
    *(Part(name, partial(full, name=name), minutes=3) for name in NAMES),
)

if __name__ == "__main__":
    sys.exit(run_job(10, PARTS))
