"""Seeds side by side: one process each on the cores that there are, or one after another in this process."""

from __future__ import annotations

import contextlib
import errno
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeAlias

from leapverify.storage import Damaged, NotWritten
from leapverify.study.progress import Progress, Watcher

logger = logging.getLogger(__name__)

LOCK_PATIENCE_S = 60.0
"""How long a seed waits for a process of an earlier, killed study to notice that it is alone."""


LISTEN_S = 1.0
"""How often a worker's state is asked for, should neither its pipe nor its sentinel tell."""

END_PATIENCE_S = 5.0
"""How long a worker that has said its last word may take to end."""


class StudyError(RuntimeError):
    """A study that cannot go on; the message names what happened and the remedy."""


class Paused(StudyError):
    """A study that stopped because its time was over, where the same command goes on; nothing is lost."""


Deadline: TypeAlias = float | None
"""Seconds since the epoch after which a seed stops at its next state; None: it never does."""


@dataclass(frozen=True)
class Task:
    """One call of `work(watcher, **arguments)`."""

    seed: int
    work: Callable[..., None]
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a seed did not do its work."""

    message: str
    wrong_use: bool
    """Whether other settings are the remedy, not another try."""
    paused: bool = False
    """Whether only its time was over."""

    def __str__(self) -> str:
        return self.message


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


def run_tasks(tasks: Sequence[Task], *, workers: int, watcher: Watcher) -> dict[int, Failure]:
    """Run every task, at most `workers` at a time.

    Returns: seed -> failure of the tasks that failed; the others have done their work.
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


def failure_of(error: BaseException) -> Failure:
    """What an error that ended a seed means for whoever asked for the seed."""
    wrong_use = isinstance(error, ValueError) and not isinstance(error, Damaged | NotWritten)
    return Failure(failure_message(error), wrong_use, isinstance(error, Paused))


def _in_this_process(tasks: Sequence[Task], watcher: Watcher) -> dict[int, Failure]:
    failures = {}
    for task in tasks:
        try:
            task.work(watcher, **task.arguments)
        except Exception as error:
            logger.debug("seed %d failed", task.seed, exc_info=True)
            failures[task.seed] = failure_of(error)
    return failures


@dataclass(frozen=True)
class _End:
    """The last word of a worker."""

    failure: Failure | None


@dataclass(frozen=True)
class _Worker:
    """A child process, and this end of its pipe."""

    process: BaseProcess
    channel: Connection

    def join(self) -> None:
        """Wait until the process is gone; one that does not go by itself is made to."""
        for insist in (self.process.terminate, self.process.kill):
            self.process.join(END_PATIENCE_S)
            if self.process.is_alive():
                insist()
        self.process.join()
        self.channel.close()

    def death(self) -> Failure:
        """What is known of a worker that ended without a last word."""
        code = self.process.exitcode
        how = f"signal {-code}" if code and code < 0 else f"exit status {code}"
        remedy = "if memory ran out, lower training.batch_size or run fewer seeds"
        return Failure(f"its process ended without a word ({how}): {remedy}", wrong_use=False)


def _side_by_side(tasks: Sequence[Task], workers: int, watcher: Watcher) -> dict[int, Failure]:
    waiting = list(tasks)
    running: dict[int, _Worker] = {}
    failures: dict[int, Failure] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                with _interrupts_held_back():
                    task = waiting.pop(0)
                    running[task.seed] = _start(task)
            for seed, failure in _listen(running, watcher).items():
                del running[seed]
                if failure is not None:
                    failures[seed] = failure
    finally:
        for worker in running.values():
            worker.process.terminate()
        for worker in running.values():
            worker.join()
    return failures


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: it is for this process, which ends them.

    SIGINT is blocked, which a child inherits. One that comes meanwhile is not lost: it arrives when the block ends.
    """
    if not hasattr(signal, "pthread_sigmask"):  # pragma: no cover - no signal masks on this system
        yield
        return
    # The first process to be started would start the tracker, and that unblocks SIGINT.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(task: Task) -> _Worker:
    # One pipe each: its end says that the worker is gone, and a worker killed in mid-message blocks no other.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(task, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _work(task: Task, channel: Connection) -> None:
    """What a child process runs: the task, its progress sent home, and an end when home is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    end = _End(None)
    try:
        task.work(channel.send, **task.arguments)
    except Exception as error:
        logger.debug("seed %d failed", task.seed, exc_info=True)
        end = _End(failure_of(error))
    with contextlib.suppress(BrokenPipeError):
        channel.send(end)


def _end_with_parent() -> None:
    """Stop as soon as the parent is gone, so that a restarted study finds the folder free."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _listen(running: dict[int, _Worker], watcher: Watcher) -> dict[int, Failure | None]:
    """Pass on one word of every worker that has any; the seeds that have ended, with what made them fail."""
    handles = [handle for worker in running.values() for handle in (worker.channel, worker.process.sentinel)]
    ready = wait(handles, timeout=LISTEN_S)
    ended: dict[int, Failure | None] = {}
    for seed, worker in running.items():
        # Asked before the pipe: what it said before its end is then in there.
        alive = worker.process.is_alive()
        if worker.channel in ready or worker.channel.poll():
            word = _receive(worker.channel)
        elif alive:
            continue
        else:
            word = None
        if isinstance(word, Progress):
            watcher(word)
            continue
        worker.join()
        ended[seed] = word.failure if isinstance(word, _End) else worker.death()
    return ended


def _receive(channel: Connection) -> Any:
    """The next word; None where the pipe has ended, be it in mid-word."""
    try:
        return channel.recv()
    except (EOFError, OSError):
        return None
