"""The machine and the versions that a study ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("leapverify", "torch", "transformers", "tokenizers", "numpy", "scipy", "safetensors", "pyarrow", "plotly")


def resolve_device(device: str) -> str:
    """`auto` as what there is.

    Raises:
        ValueError: `cuda` without a usable GPU, or an unknown name.
    """
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device!r} is not auto, cpu or cuda")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device cuda: torch {torch.__version__} sees no GPU here: use --device cpu or auto")
    return device


def cpu_count() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads_of(count: int) -> Iterator[None]:
    """Compute with so many CPU threads: the count is part of what makes numbers repeatable."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def memory_bytes() -> int | None:
    """The machine's memory, where the system tells it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def disk_free_bytes(path: Path) -> int:
    """Free bytes on the disk that holds, or will hold, `path`."""
    existing = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Python's and the packages' versions."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def describe(device: str, *, threads: int, workers: int) -> dict[str, Any]:
    """Everything about this machine that a reader of the results needs."""
    import torch

    gpu = torch.cuda.get_device_properties(0) if device == "cuda" else None
    return {
        "device": device,
        "gpu": {"name": gpu.name, "memory_bytes": gpu.total_memory} if gpu else None,
        "cpu": cpu_name(),
        "cores": cpu_count(),
        "memory_bytes": memory_bytes(),
        "platform": platform.platform(),
        "threads_per_seed": threads,
        "seeds_side_by_side": workers,
        "versions": versions(),
        "command": " ".join(["leapverify", *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
