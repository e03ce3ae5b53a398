"""What this machine can run, and why not the rest."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from leapverify.capacity.cost import cost, gigabytes, vocabulary_of
from leapverify.capacity.machine import Machine, duration
from leapverify.capacity.memory import GB, MemoryPlan
from leapverify.config.presets import PRESETS
from leapverify.config.resolved import Resolved
from leapverify.runs.environment import cpu_count, cpu_name, disk_free_bytes, memory_bytes, versions

LONGEST_S = 7 * 24 * 3600.0


@dataclass(frozen=True)
class DoctorCheck:
    """One line of `leapverify doctor`."""

    subject: str
    fine: bool
    text: str


def examine(folder: Path, machine: Machine) -> list[DoctorCheck]:
    """Look at hardware, libraries and every preset.

    Args:
        folder: where studies would be written.
        machine: what the presets would run on: this one, or one with other memory.
    """
    found = [_preset(name, folder, machine) for name in PRESETS]
    return [*_hardware(folder), *_libraries(), DoctorCheck("presets on", True, machine.words), *found]


def _hardware(folder: Path) -> Iterator[DoctorCheck]:
    import torch

    memory = memory_bytes()
    yield DoctorCheck("processor", True, f"{cpu_name()}, {cpu_count()} cores to use")
    yield DoctorCheck("memory", True, f"{memory / GB:.1f} GB" if memory else "unknown on this system")
    free = disk_free_bytes(folder)
    yield DoctorCheck("disk", free > 1e9, f"{free / GB:.1f} GB free for {folder}")
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        yield DoctorCheck("gpu", True, f"{gpu.name}, {gpu.total_memory / GB:.1f} GB")
    else:
        why = "this torch is a CPU build" if torch.version.cuda is None else "no device answers"
        yield DoctorCheck(
            "gpu", False, f"none: torch {torch.__version__} sees no CUDA device ({why}); studies run on the CPU"
        )


def _libraries() -> Iterator[DoctorCheck]:
    for name, version in versions().items():
        yield DoctorCheck(name, version != "not installed", version)
    found = importlib.util.find_spec("datasets") is not None
    hint = "installed" if found else "not installed: pip install 'leapverify[datasets]', or use --data text:PATH"
    yield DoctorCheck("datasets (for wikitext-103)", found, hint)
    browser = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
    yield DoctorCheck(
        "browser (checks of the report)", browser is not None, browser or "none found: only tests need one"
    )


def _preset(name: str, folder: Path, machine: Machine) -> DoctorCheck:
    config = Resolved.of(PRESETS[name](None))
    bill = cost(config, vocabulary_of(config), machine.room)
    free = disk_free_bytes(folder)
    seconds = bill.flops / machine.flops
    problems = [bill.plan.problem] if bill.plan.problem else []
    if bill.disk_bytes > free:
        problems.append(f"needs {bill.disk_bytes / GB:.1f} GB of disk, {free / GB:.1f} are free")
    if seconds > LONGEST_S:
        problems.append(f"would take up to {duration(seconds)} here")
    return DoctorCheck(f"preset {name}", not problems, "; ".join(problems) or f"{_fit(bill.plan)}; {_time(seconds)}")


def _fit(plan: MemoryPlan) -> str:
    if plan.room.device_bytes is None:
        return f"fits in {gigabytes(plan.host_bytes)} GB of memory"
    near = plan.ring_places.count("device")
    where = {0: "in host memory", len(plan.ring_places): "on the GPU"}.get(near, "split")
    device, host = gigabytes(plan.device_bytes), gigabytes(plan.host_bytes)
    return f"fits in {device} GB on the GPU and {host} GB of host memory, ring {where}"


def _time(seconds: float) -> str:
    return f"by operations alone at most {duration(seconds)} for all seeds"
