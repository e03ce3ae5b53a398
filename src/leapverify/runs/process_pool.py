"""A pool of processes on this machine; one that dies is replaced."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Self

from leapverify.runs import stopping
from leapverify.runs.failure import Failure, told_to_stop
from leapverify.runs.progress import Progress, Watcher
from leapverify.runs.task import Ended, Failures, RetryBudget, Task, nobody

LISTEN_S = 1.0
"""How often a worker's state is asked for, should neither its pipe nor its sentinel tell."""

END_PATIENCE_S = 5.0
"""How long a worker that has nothing more to do may take to end."""


@dataclass(frozen=True)
class _End:
    """The last word about a task."""

    failure: Failure | None


@dataclass(frozen=True)
class _Worker:
    """A child process, and this end of its pipe."""

    process: BaseProcess
    channel: Connection
    gpu: int | None
    """Which of the GPUs that are there it has to itself."""

    def join(self) -> None:
        """Wait until the process is gone; one that does not go by itself is made to."""
        self.process.join(END_PATIENCE_S)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.channel.close()

    def death(self) -> str:
        """How one ended that ended without a last word."""
        code = self.process.exitcode
        return f"signal {-code}" if code and code < 0 else f"exit status {code}"


class Processes:
    """The executor of one machine.

    Args:
        workers: tasks at a time, at most.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._idle: list[_Worker] = []
        self._running: dict[str, tuple[Task, _Worker]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        del error
        for worker in self._idle:
            # The end of its pipe is the end of its work.
            worker.channel.close()
        for worker in self._idle:
            worker.join()
        self._idle.clear()

    def run(self, tasks: Sequence[Task], watcher: Watcher, ended: Ended = nobody) -> dict[str, Failure]:
        """Every task, as many at a time as there are workers."""
        waiting, lives, failures = deque(tasks), RetryBudget(watcher), Failures(ended)
        told = False

        try:
            while waiting or self._running:
                if stopping.asked() and not told:
                    told = True
                    self._ask_to_stop()
                while told and waiting:
                    task = waiting.popleft()
                    failures.end(task, told_to_stop(task.seed))
                while waiting and len(self._running) < self._workers:
                    self._begin(waiting.popleft())
                for task, word in self._listen(lives):
                    if isinstance(word, _End):
                        failures.end(task, word.failure)
                    elif (failure := lives.after_death(task, word)) is not None:
                        failures.end(task, failure)
                    else:
                        waiting.appendleft(task)
        finally:
            # Not `terminate`, which only asks a worker to stop at its next checkpoint.
            for _, worker in self._running.values():
                worker.process.kill()
            for _, worker in self._running.values():
                worker.join()
            self._running.clear()
        return failures

    def _ask_to_stop(self) -> None:
        """Let every worker end its task at its next checkpoint."""
        for _, worker in self._running.values():
            worker.process.terminate()

    def _begin(self, task: Task) -> None:
        """Give a task to a worker that has none, or to a new one."""
        while self._idle:
            worker = self._idle.pop()
            try:
                worker.channel.send(task)
            except OSError:  # It was killed while it waited.
                worker.join()
                continue
            self._running[task.key] = task, worker
            return
        # Held back until the worker is known here, so that what ends this process ends it, too.
        with _interrupts_held_back():
            worker = _start(self._free_gpu() if task.gpus else None)
            self._running[task.key] = task, worker
            with contextlib.suppress(OSError):  # Killed already: it is noticed where its words are awaited.
                worker.channel.send(task)

    def _free_gpu(self) -> int:
        taken = {worker.gpu for _, worker in self._running.values()}
        return next(number for number in range(self._workers) if number not in taken)

    def _listen(self, lives: RetryBudget) -> Iterator[tuple[Task, _End | str]]:
        """Pass on one word of every worker that has any; the tasks that have ended, or how their worker died."""
        workers = [worker for _, worker in self._running.values()]
        handles = [handle for worker in workers for handle in (worker.channel, worker.process.sentinel)]
        ready = wait(handles, timeout=LISTEN_S)
        for task, worker in list(self._running.values()):
            # Asked before the pipe: what it said before its end is then in there.
            alive = worker.process.is_alive()
            if worker.channel in ready or worker.channel.poll():
                word = _receive(worker.channel)
            elif alive:
                continue
            else:
                word = None
            if isinstance(word, Progress):
                lives.tell(task, word)
                continue
            del self._running[task.key]
            if isinstance(word, _End):
                self._idle.append(worker)
                yield task, word
            else:
                worker.join()
                yield task, worker.death()


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: it is for this process, which ends them.

    SIGINT and SIGTERM are blocked, which a child inherits; a worker heeds SIGTERM once it can. One that comes meanwhile
    is not lost: it arrives when the block ends.
    """
    if not hasattr(signal, "pthread_sigmask"):  # pragma: no cover - no signal masks on this system
        yield
        return
    # The first process to be started would start the tracker, and that unblocks SIGINT.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(gpu: int | None) -> _Worker:
    # One pipe each: its end says that the worker is gone, and a worker killed in mid-message blocks no other.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, gpu), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours, gpu)


def _work(channel: Connection, gpu: int | None) -> None:
    """What a child process runs: task after task, their progress sent home, and an end when home is gone."""
    stopping.heed_in_a_worker()
    if gpu is not None:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[gpu] if seen else str(gpu)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while (task := _receive(channel)) is not None:
        end = _End(task.perform(channel.send))
        with contextlib.suppress(BrokenPipeError):
            channel.send(end)


def _end_with_parent() -> None:
    """Stop as soon as the parent is gone, so that a restarted study finds the folder free."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _receive(channel: Connection) -> Any:
    """The next word; None where the pipe has ended, be it in mid-word."""
    try:
        return channel.recv()
    except (EOFError, OSError):
        return None
