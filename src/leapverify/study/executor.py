"""Seeds side by side: one process each on the cores that there are, or one after another in this process."""

from __future__ import annotations

import contextlib
import errno
import logging
import multiprocessing
import os
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leapverify.study.progress import Progress, Watcher

logger = logging.getLogger(__name__)

LOCK_PATIENCE_S = 60.0
"""How long a seed waits for a process of an earlier, killed study to notice that it is alone."""


class StudyError(RuntimeError):
    """A study that cannot go on; the message names what happened and the remedy."""


@dataclass(frozen=True)
class Task:
    """One call of `work(watcher, **arguments)`."""

    seed: int
    work: Callable[..., None]
    arguments: dict[str, Any]


@contextlib.contextmanager
def exclusive(folder: Path, patience_s: float = LOCK_PATIENCE_S) -> Iterator[None]:
    """Hold the folder for this process alone; the system lets go of it when the process ends, however it ends.

    Raises:
        StudyError: another process holds it for longer than `patience_s`.
    """
    try:
        import fcntl
    except ImportError:  # pragma: no cover - no advisory locks on this system
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as handle:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                if time.monotonic() > deadline:
                    raise StudyError(
                        f"{folder} is in use by another study: wait for it, or name another --out"
                    ) from error
                time.sleep(0.2)
        yield


def run_tasks(tasks: Sequence[Task], *, workers: int, watcher: Watcher) -> dict[int, str]:
    """Run every task, at most `workers` at a time.

    Returns: seed -> message of the tasks that failed; the others have done their work.
    """
    if workers == 1:
        return _in_this_process(tasks, watcher)
    return _side_by_side(tasks, workers, watcher)


def failure_message(error: BaseException) -> str:
    """One sentence for an error that ended a seed."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full: free some space and give the same command again; everything saved so far is kept"
    text = " ".join(str(error).split())
    expected = isinstance(error, StudyError | ValueError | OSError)
    return text if expected and text else f"{type(error).__name__}: {text}"


def _in_this_process(tasks: Sequence[Task], watcher: Watcher) -> dict[int, str]:
    failures = {}
    for task in tasks:
        try:
            task.work(watcher, **task.arguments)
        except Exception as error:
            logger.debug("seed %d failed", task.seed, exc_info=True)
            failures[task.seed] = failure_message(error)
    return failures


def _worker(task: Task, channel: Any, parent: int) -> None:
    """What a child process runs: the task, its progress sent home, and an end when home is gone."""

    def send(progress: Progress) -> None:
        if os.getppid() != parent:
            # The parent was killed. Stop at once, between two steps, so that a restarted study finds the folder free.
            os._exit(1)
        channel.put(progress)

    try:
        task.work(send, **task.arguments)
        channel.put((task.seed, None))
    except KeyboardInterrupt:
        os._exit(1)
    except Exception as error:
        channel.put((task.seed, failure_message(error)))


def _side_by_side(tasks: Sequence[Task], workers: int, watcher: Watcher) -> dict[int, str]:
    context = multiprocessing.get_context("spawn")
    channel = context.Queue()
    waiting, running = list(tasks), dict[int, Any]()
    failures: dict[int, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                task = waiting.pop(0)
                process = context.Process(target=_worker, args=(task, channel, os.getpid()), daemon=True)
                process.start()
                running[task.seed] = process
            for seed, message in _receive(channel, running, watcher):
                running.pop(seed).join()
                if message is not None:
                    failures[seed] = message
    finally:
        for process in running.values():
            process.terminate()
            process.join()
    return failures


def _receive(channel: Any, running: dict[int, Any], watcher: Watcher) -> Iterator[tuple[int, str | None]]:
    """Pass progress on; give the seeds that have ended, with a message where they failed."""
    try:
        item = channel.get(timeout=0.5)
    except queue.Empty:
        for seed, process in running.items():
            if not process.is_alive() and channel.empty():
                yield seed, _death(process.exitcode)
                return
        return
    if isinstance(item, Progress):
        watcher(item)
    elif item[0] in running:
        yield item


def _death(exitcode: int | None) -> str:
    how = f"signal {-exitcode}" if exitcode and exitcode < 0 else f"exit status {exitcode}"
    return f"its process ended without a word ({how}): if memory ran out, lower training.batch_size or run fewer seeds"
