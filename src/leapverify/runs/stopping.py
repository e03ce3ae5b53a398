"""SIGTERM: a run goes on to its next checkpoint, saves it and stops there; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM
"""By the convention of shells: 143."""

_state = {"asked": False}


class Terminated(BaseException):
    """The second SIGTERM: nothing more is saved. No `Exception`, so that no task holds it back."""


def asked() -> bool:
    """Whether this process has been told to stop at the next place where the same command can go on."""
    return _state["asked"]


def ask() -> None:
    """Tell this process so."""
    _state["asked"] = True


def forget() -> None:
    """Take it back: another task begins in this process."""
    _state["asked"] = False


@contextmanager
def stops_on_sigterm() -> Iterator[None]:
    """Inside, the first SIGTERM asks to stop and the second raises Terminated; only in a process's main thread.

    Raises:
        Terminated: the second SIGTERM has come.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        if asked():
            raise Terminated
        ask()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _state["asked"] = False


def heed_in_a_worker() -> None:
    """Let SIGTERM, however often it comes, ask a worker process to stop; its parent ends it if it is to end at once.

    It was held back while the process started (`executor`), lest it end a worker that cannot listen yet.
    """
    signal.signal(signal.SIGTERM, lambda *_: ask())
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
