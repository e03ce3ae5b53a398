"""Work for the executor's tests, in a module that a spawned process imports at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from leapverify.errors import Damaged
from leapverify.runs import exclusive
from leapverify.runs.progress import Progress, Watcher

FAILURES = {
    "value": ValueError("seed 3 will not"),
    "damaged": Damaged("x is damaged"),
    "bug": KeyError("x"),
}


def succeed(watcher: Watcher, *, seed: int) -> None:
    watcher(Progress(seed, 2, 2, "done"))


def fail(watcher: Watcher, *, seed: int, how: str) -> None:
    raise FAILURES[how]


def die(watcher: Watcher, *, seed: int, grandchild: str | None = None) -> None:
    watcher(Progress(seed, os.getpid(), 2, "train"))
    if grandchild is not None and os.fork() == 0:
        # Holding its parent's pipes open, until it is let go.
        for _ in range(600):
            if Path(grandchild).exists():
                os._exit(0)
            time.sleep(0.1)
        Path(f"{grandchild}-never-came").touch()
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


def talk(watcher: Watcher, *, seed: int, until: str) -> None:
    while not Path(until).exists():
        watcher(Progress(seed, 1, 2, "train"))


def end_the_talk(watcher: Watcher, *, seed: int, until: str) -> None:
    watcher(Progress(seed, 1, 2, "train"))
    Path(until).touch()


def sit(watcher: Watcher, *, seed: int, folder: str) -> None:
    """Hold a folder, and say nothing."""
    with exclusive(Path(folder)):
        (Path(folder) / "here").touch()
        time.sleep(60)


def sit_once(watcher: Watcher, *, seed: int, folder: str) -> None:
    """Hold a folder until somebody kills the process; begun again, be done."""
    if not (Path(folder) / "here").exists():
        sit(watcher, seed=seed, folder=folder)


def advance(watcher: Watcher, *, seed: int, folder: str, deaths: list[int]) -> None:
    """Ten checkpoints, each kept in a file; killed before those of `deaths`, once each, or ever again with -1."""
    place = Path(folder)
    for step in range(1, 11):
        state = place / f"{seed}-{step}"
        if state.exists():
            continue
        fatal = place / f"{seed}-{step}-died"
        if step in deaths and not (fatal.exists() and -1 not in deaths):
            fatal.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        state.write_text(str(os.getpid()))
        watcher(Progress(seed, step, 10, "checkpoint", loss=1 / step))
        if os.environ.get("LEAPVERIFY_SLOWLY"):
            time.sleep(0.05)
    watcher(Progress(seed, 10, 10, "done"))


def tell_threads(watcher: Watcher, *, seed: int, threads: int) -> None:
    """Tell with how many threads torch computes, and under which settings."""
    import torch

    from leapverify.runs.environment import threads_of

    with threads_of(threads):
        text = f"{torch.get_num_threads()} {os.environ.get('OMP_NUM_THREADS')} {os.getcwd()}"
    watcher(Progress(seed, 1, 1, "note", note=text))
