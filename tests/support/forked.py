"""Work in a forked process, which begins warm: everything that this one has imported is there."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Ended:
    """How a forked process ended."""

    killed: bool
    """By SIGKILL."""
    value: Any
    """What the work returned, or the exception it raised as text; None of a killed process."""
    failed: bool
    said: tuple[int, ...]
    """The numbers that it told before its end."""


class Told:
    """Takes numbers to the parent, one system call each: what was told before a kill arrives."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, number: int) -> None:
        os.write(self._descriptor, f"{number}\n".encode())


def forked(work: Callable[[Told], Any], *, kill_after_s: float | None = None) -> Ended:
    """Run `work` in a forked process, and kill that after so many seconds if it is still there."""
    result, answer = os.pipe()
    numbers, told = os.pipe()
    gc.freeze()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _child(work, Told(told), answer)
    os.close(answer)
    os.close(told)
    if kill_after_s is not None:
        import select

        select.select([result], [], [], kill_after_s)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(result, "rb") as handle:
        blob = handle.read()
    with os.fdopen(numbers, "rb") as handle:
        said = tuple(int(line) for line in handle.read().split())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # A process that had ended before it was to be killed has left an answer.
    failed, value = pickle.loads(blob) if blob else (False, None)
    assert blob or status == -signal.SIGKILL, f"the process ended with {status}"
    return Ended(not blob, value, failed, said)


def _child(work: Callable[[Told], Any], told: Told, answer: int) -> None:
    try:
        torch.set_num_threads(1)
        try:
            found = pickle.dumps((False, work(told)))
        except BaseException as error:
            if os.environ.get("FORKED_TRACES"):
                traceback.print_exc(file=sys.__stderr__)
            found = pickle.dumps((True, f"{type(error).__name__}: {error}"))
        with os.fdopen(answer, "wb") as handle:
            handle.write(found)
        os._exit(0)
    finally:
        os._exit(1)
