"""What this machine can run, and why not the rest."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from leapverify.study.cost import cost, vocabulary_of
from leapverify.study.environment import cpu_count, cpu_name, disk_free_bytes, memory_bytes, versions
from leapverify.study.presets import PRESETS

GB = 1e9
CPU_FLOPS_PER_CORE = 15e9
"""A rough float32 rate of one core, only to tell minutes from weeks."""
GPU_FLOPS = 100e12
LONGEST_S = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    fine: bool
    text: str


def examine(folder: Path) -> list[Finding]:
    """Look at hardware, libraries and every preset.

    Args:
        folder: where studies would be written.
    """
    return [*_hardware(folder), *_libraries(), *(_preset(name, folder) for name in PRESETS)]


def _hardware(folder: Path) -> Iterator[Finding]:
    import torch

    memory = memory_bytes()
    yield Finding("processor", True, f"{cpu_name()}, {cpu_count()} cores to use")
    yield Finding("memory", True, f"{memory / GB:.1f} GB" if memory else "unknown on this system")
    free = disk_free_bytes(folder)
    yield Finding("disk", free > 1e9, f"{free / GB:.1f} GB free for {folder}")
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        yield Finding("gpu", True, f"{gpu.name}, {gpu.total_memory / GB:.1f} GB")
    else:
        why = "this torch is a CPU build" if torch.version.cuda is None else "no device answers"
        yield Finding(
            "gpu", False, f"none: torch {torch.__version__} sees no CUDA device ({why}); studies run on the CPU"
        )


def _libraries() -> Iterator[Finding]:
    for name, version in versions().items():
        yield Finding(name, version != "not installed", version)
    found = importlib.util.find_spec("datasets") is not None
    hint = "installed" if found else "not installed: pip install 'leapverify[datasets]', or use --data text:PATH"
    yield Finding("datasets (for wikitext-103)", found, hint)
    browser = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
    yield Finding("browser (checks of the report)", browser is not None, browser or "none found: only tests need one")


def _preset(name: str, folder: Path) -> Finding:
    import torch

    config = PRESETS[name](None)
    bill = cost(config, vocabulary_of(config))
    gpu = torch.cuda.is_available()
    room = torch.cuda.get_device_properties(0).total_memory if gpu else memory_bytes() or 0
    place = "GPU memory" if gpu else "memory"
    free = disk_free_bytes(folder)
    seconds = (bill.train_flops + bill.sweep_flops) / (GPU_FLOPS if gpu else CPU_FLOPS_PER_CORE * cpu_count())
    problems = []
    if bill.memory_bytes > room:
        problems.append(f"needs {bill.memory_bytes / GB:.1f} GB of {place}, there are {room / GB:.1f}")
    if bill.disk_bytes > free:
        problems.append(f"needs {bill.disk_bytes / GB:.1f} GB of disk, {free / GB:.1f} are free")
    if seconds > LONGEST_S:
        problems.append(f"would take about {seconds / 86400:.0f} days here")
    fine = f"runs here; by operations alone about {_duration(seconds)}"
    return Finding(f"preset {name}", not problems, "; ".join(problems) or fine)


def _duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{max(1, round(seconds / 60))} minutes"
    return f"{seconds / 3600:.0f} hours"
