"""What a task on another machine tells, through the folder that both see: a file to which one process appends lines."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leapverify.study import stopping
from leapverify.study.executor.failure import StudyError
from leapverify.study.progress import Progress

STOP = "stop"
"""A file of this name beside the messages asks every task to stop at its next checkpoint."""


class Sender:
    """The watcher of a task that runs elsewhere.

    Args:
        path: the file, which the driver has made.

    Raises:
        StudyError: it is not there: this machine does not see the driver's folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._handle = os.open(path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise StudyError(
                f"{path.parent} is not there on {platform.node()}: a run folder must lie on storage that every node of "
                "the Ray cluster sees under the same path"
            ) from error

    def __call__(self, progress: Progress) -> None:
        """Append one line; and heed the driver where it asks to stop."""
        kind = type(progress)
        line = json.dumps({"kind": f"{kind.__module__}:{kind.__qualname__}", **dataclasses.asdict(progress)})
        # What is told is for the eye: a disk that is full ends the training where its results are written, not here.
        with contextlib.suppress(OSError):
            os.write(self._handle, line.encode() + b"\n")
        if (self._path.parent / STOP).exists():
            stopping.ask()

    def close(self) -> None:
        """Nothing more is told."""
        os.close(self._handle)


class Receiver:
    """Reads what a sender has appended since the last look.

    Args:
        path: the file; it is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._read_bytes = 0

    def __iter__(self) -> Iterator[Progress]:
        """What is new; a line that is not whole yet is left for the next look."""
        try:
            with self.path.open("rb") as handle:
                handle.seek(self._read_bytes)
                found = handle.read()
        except OSError:
            return
        whole = found[: found.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError, ImportError, AttributeError):
                yield _progress(json.loads(line))

    def close(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)


def _progress(fields: dict[str, Any]) -> Progress:
    module, _, name = fields.pop("kind").partition(":")
    if not module.startswith("leapverify."):
        raise ValueError(f"{module} is no module of leapverify")
    kind = getattr(importlib.import_module(module), name)
    if not issubclass(kind, Progress):
        raise TypeError(f"{name} is no progress")
    return kind(**fields)
