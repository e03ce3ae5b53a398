"""The choice of an executor: what a user says, and what follows from it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from leapverify.runs.environment import cpu_count
from leapverify.runs.in_process import InProcess
from leapverify.runs.process_pool import Processes
from leapverify.runs.task import Executor

KINDS = ("in-process", "processes", "ray")


@dataclass(frozen=True)
class Execution:
    """What runs tasks, and how many at a time."""

    kind: str | None = None
    """in-process, processes or ray; None: a process for each, or this one where only one runs at a time."""
    address: str | None = None
    """Of a Ray cluster; None: one of its own on this machine."""
    workers: int | None = None
    """Tasks at a time, at most; None: as many as there are cores or GPUs for."""

    def side_by_side(self, tasks: int, threads: int, device: str) -> int:
        """How many tasks run at a time on one machine like this one.

        Args:
            tasks: how many there are.
            threads: CPU threads of each.
            device: cpu or cuda, where each has a GPU to itself.

        Raises:
            ValueError: more workers than GPUs.
        """
        if self.kind == "in-process":
            return 1
        room = max(1, cpu_count() // threads) if device == "cpu" else self._gpus()
        if device == "cuda" and self.kind == "processes" and self.workers is not None and self.workers > room:
            raise ValueError(
                f"--workers {self.workers} asks for more processes than there are GPUs ({room}), and each has one to "
                "itself: give at most that many"
            )
        return max(1, min(tasks, room if self.workers is None else self.workers))

    def _gpus(self) -> int:
        if self.kind is None and self.workers is None:
            return 1
        import torch

        return max(1, torch.cuda.device_count())

    def open(self, folder: Path, workers: int) -> Executor:
        """The executor itself, a context.

        Args:
            folder: where the tasks' run folders lie; workers on other machines must see it under the same path.
            workers: what `side_by_side` says.

        Raises:
            StudyError: there is no Ray cluster at the address.
        """
        if self.kind == "ray":
            from leapverify.runs.on_ray import OnRay

            return OnRay(folder, self.address, self.workers if self.address else workers)
        if self.kind == "processes" or (self.kind is None and workers > 1):
            return Processes(workers)
        return InProcess()


AUTOMATIC = Execution()
"""A process for each task that runs at a time, or this process where only one does."""


def execution(text: str | None = None, workers: int | None = None) -> Execution:
    """What `--executor` and `--workers` say.

    Args:
        text: in-process, processes, ray or ray:ADDRESS; None: what suits the number of tasks and cores.
        workers: tasks at a time, at most.

    Raises:
        ValueError: no such executor, a number that is none, or Ray is not installed.
    """
    kind, colon, address = (text or "").partition(":")
    if text is not None and (kind not in KINDS or (colon and (kind != "ray" or not address))):
        raise ValueError(
            f"--executor {text!r} is unknown: use in-process, processes, ray, or ray:ADDRESS such as ray:auto or "
            "ray:10.0.0.1:6379"
        )
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers} leaves nobody to work: give at least 1")
    if kind == "in-process" and workers is not None and workers > 1:
        raise ValueError(f"--workers {workers} cannot be in one process: use --executor processes, or leave it out")
    if kind == "ray" and importlib.util.find_spec("ray") is None:
        raise ValueError("--executor ray needs the package ray: pip install 'leapverify[ray]'")
    return Execution(kind or None, address or None, workers)
