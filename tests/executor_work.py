"""Work for the executor's tests, in a module that a spawned process imports at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from leapverify.storage import Damaged
from leapverify.study.executor import exclusive
from leapverify.study.progress import Progress, Watcher

FAILURES = {
    "value": ValueError("seed 3 will not"),
    "damaged": Damaged("x is damaged"),
    "bug": KeyError("x"),
}


def succeed(watcher: Watcher, *, seed: int) -> None:
    watcher(Progress(seed, 2, 2, "done"))


def fail(watcher: Watcher, *, seed: int, how: str) -> None:
    raise FAILURES[how]


def die(watcher: Watcher, *, seed: int, grandchild: bool = False) -> None:
    watcher(Progress(seed, os.getpid(), 2, "train"))
    if grandchild and os.fork() == 0:
        time.sleep(5)  # holding its parent's pipes open
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def die_speaking(watcher: Watcher, *, seed: int) -> None:
    """End in the middle of a word that is longer than the pipe."""
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    watcher(Progress(seed, 1, 2, "note", note="x" * 100_000_000))


def interrupt_itself(watcher: Watcher, *, seed: int) -> None:
    """As Ctrl-C does, which the terminal sends to every process of its group."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)


def talk(watcher: Watcher, *, seed: int, until: Path) -> None:
    while not until.exists():
        watcher(Progress(seed, 1, 2, "train"))


def end_the_talk(watcher: Watcher, *, seed: int, until: Path) -> None:
    watcher(Progress(seed, 1, 2, "train"))
    until.touch()


def sit(watcher: Watcher, *, seed: int, folder: Path) -> None:
    """Hold a folder, and say nothing."""
    with exclusive(folder):
        (folder / "here").touch()
        time.sleep(60)
