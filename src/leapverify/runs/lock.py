"""One writer to a folder: a lock of the system, and a lease for file systems on which such locks do not reach far."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from leapverify.errors import StudyError
from leapverify.io.storage import in_one_sentence, make_folder
from leapverify.runs.lease import Lease

LOCK_PATIENCE_S = 60.0
"""How long a seed waits for a process of an earlier, killed study to notice that it is alone."""

_TAKEN = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What a file system says that knows no locks."""


@contextlib.contextmanager
def exclusive(folder: Path, patience_s: float = LOCK_PATIENCE_S) -> Iterator[None]:
    """Hold the folder for this process alone.

    Among the processes of a machine, and of machines whose shared file system passes locks on, the system's lock holds:
    it ends with its process, however that ends. The lease beside it holds among machines, too (`lease.py`).

    Raises:
        StudyError: another process holds it for longer than `patience_s`, or took it meanwhile because this machine
            had shown no sign of life.
        NotWritten: the disk is full, or the folder cannot be written.
    """
    deadline = time.monotonic() + patience_s
    with in_one_sentence(f"{folder} cannot be written"):
        make_folder(folder)
        lock = (folder / ".lock").open("a+")
    with lock as handle:
        while not _locked(handle):
            if time.monotonic() > deadline:
                raise _in_use(folder, "")
            time.sleep(0.2)
        lease = Lease(folder)
        with in_one_sentence(f"{folder} cannot be written"):
            holder = lease.take(patience_s)
        if holder is not None:
            raise _in_use(folder, f" ({holder})")
        try:
            yield
        finally:
            lost_to = lease.give_back()
        if lost_to is not None:
            raise StudyError(
                f"{folder} was taken over by {lost_to}, which saw no sign of life of this process: nothing is damaged, "
                "let that one go on"
            )


def _in_use(folder: Path, by: str) -> StudyError:
    return StudyError(f"{folder} is in use by another study{by}: wait for it, or name another --out")


def _locked(handle: IO[str]) -> bool:
    """Whether the file's lock is this process's now, or the system knows no locks here."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover - no advisory locks on this system
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True
