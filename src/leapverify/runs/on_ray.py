"""A Ray cluster, be it one machine: a Ray task for each task; what is told comes through the run folder.

Ray decides where a task runs, by cores and GPUs. It does not retry: a worker that dies is counted like any other
(`RetryBudget`), and neither results nor weights go through its object store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import logging
import os
import platform
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from leapverify.errors import StudyError
from leapverify.runs import stopping
from leapverify.runs.failure import Failure, failure_of, told_to_stop
from leapverify.runs.progress import Progress, Watcher
from leapverify.runs.task import Ended, Failures, RetryBudget, Task, nobody

FOLDER = ".messages"
"""Below the run folder: what the tasks tell while they run."""
LOOK_S = 0.5
"""How often the driver looks for ends and messages."""
LOOKS_PER_S = 200
"""Files of messages that the driver opens in a second, at most: of many tasks it hears less often."""
CONNECT_S = 5.0
"""How long a cluster may take to answer at its address."""
STORE_BYTES = 100_000_000
"""Of a local cluster's object store, of which nothing is used; Ray refuses less than 75 MiB."""


@dataclass(frozen=True)
class _Begun:
    """A task that Ray has."""

    task: Task
    reference: Any
    messages: Receiver


class OnRay:
    """The executor of many machines.

    Args:
        folder: the run folder, on storage that all nodes see.
        address: `auto`, `host:port` or `ray://host:port`; None: a cluster of its own on this machine.
        workers: tasks at a time, at most; None: as many as the cluster has cores and GPUs for.

    Raises:
        StudyError: nothing answers at the address.
    """

    def __init__(self, folder: Path, address: str | None, workers: int | None) -> None:
        self._folder, self._address, self._workers = folder.absolute() / FOLDER, address, workers
        self._own: Path | None = None
        self._begun: dict[str, _Begun] = {}
        self._attempts = 0
        self._look_at = 0.0
        self._connected = False
        self._heeds: Any = None
        self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        del error
        import ray

        if self._connected:
            ray.shutdown()
            self._heed_sigterm()
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)

    def run(self, tasks: Sequence[Task], watcher: Watcher, ended: Ended = nobody) -> dict[str, Failure]:
        """Every task, in the order in which the cluster takes them."""
        import ray

        waiting, lives, failures = deque(tasks), RetryBudget(watcher), Failures(ended)
        shutil.rmtree(self._folder, ignore_errors=True)  # Of a driver that was killed.
        # NFS keeps a folder as long as a worker of that driver has a file in there open.
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / STOP).unlink(missing_ok=True)

        try:
            while waiting or self._begun:
                if stopping.asked():
                    (self._folder / STOP).touch()
                    while waiting:
                        task = waiting.popleft()
                        failures.end(task, told_to_stop(task.seed))
                while waiting and (self._workers is None or len(self._begun) < self._workers):
                    self._begin(waiting.popleft())
                for begun in self._listen(lives):
                    try:
                        failure = ray.get(begun.reference)
                    except ray.exceptions.RayError as error:
                        failure = lives.after_death(begun.task, _how(error))
                        if failure is None:
                            waiting.appendleft(begun.task)
                            continue
                    failures.end(begun.task, failure)
        finally:
            for begun in list(self._begun.values()):
                ray.cancel(begun.reference, force=True)
                self._forget(begun)
            shutil.rmtree(self._folder, ignore_errors=True)
        return failures

    def _listen(self, lives: RetryBudget) -> Iterator[_Begun]:
        """Pass on what is told; the tasks that have ended, one way or the other."""
        import ray

        references = [begun.reference for begun in self._begun.values()]
        if not references:
            return
        done, _ = ray.wait(references, timeout=LOOK_S)
        due = time.monotonic() >= self._look_at
        if due:
            self._look_at = time.monotonic() + len(references) / LOOKS_PER_S
        for begun in list(self._begun.values()):
            ends = begun.reference in done
            for progress in begun.messages if due or ends else ():
                lives.tell(begun.task, progress)
            if ends:
                self._forget(begun)
                yield begun

    def _begin(self, task: Task) -> None:
        import ray

        # Ray's own retries would be neither counted nor said.
        cores = task.threads if self._own is None else 1  # Its own cluster has as many as there are workers.
        remote = ray.remote(num_cpus=cores, num_gpus=task.gpus, max_retries=0)(_perform)
        self._attempts += 1
        messages = Receiver(self._folder / f"{task.key[:16]}-{self._attempts}.jsonl")
        settings = {name: value for name, value in os.environ.items() if name.startswith("LEAPVERIFY_")}
        self._begun[task.key] = _Begun(task, remote.remote(task, str(messages.path), os.getcwd(), settings), messages)

    def _forget(self, begun: _Begun) -> None:
        begun.messages.close()
        del self._begun[begun.task.key]

    def _connect(self) -> None:
        """Join the cluster, or start one; one that this process has joined already is used as it is."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray

        if ray.is_initialized():
            return
        if self._address is not None:
            _require_answer(self._address)
        logging.getLogger("ray").setLevel(logging.ERROR)
        self._heeds = signal.getsignal(signal.SIGTERM)
        quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
        try:
            if self._address is not None:
                ray.init(address=self._address, **quiet)
            else:
                # Its workers are nobody's background work: Ray would make them give way to everything else.
                os.environ.setdefault("RAY_worker_niceness", "0")
                # Sockets lie in there, whose paths must be short.
                self._own = Path(tempfile.mkdtemp(prefix="lv-"))
                ray.init(
                    address="local",
                    num_cpus=self._workers,
                    include_dashboard=False,
                    object_store_memory=STORE_BYTES,
                    _temp_dir=str(self._own),
                    **quiet,
                )
        except (Exception, SystemExit) as error:
            self.__exit__()
            what = "can be started here" if self._address is None else f"at {self._address} can be joined"
            why = "Ray gave up" if isinstance(error, SystemExit) else " ".join(str(error).split())
            raise StudyError(f"no Ray cluster {what} ({why}): {_REMEDY}") from error
        self._connected = True
        if callable(self._heeds):
            self._heed_sigterm()

    def _heed_sigterm(self) -> None:
        """As before Ray was joined: it has put a handler of its own in the place, which ends the process at once."""
        if self._heeds is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._heeds)


_REMEDY = "see `ray status`, or use --executor processes"


def _require_answer(address: str) -> None:
    """Ask before Ray does, which tries for two minutes and then ends the process.

    Raises:
        StudyError: nobody listens there.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise StudyError(
            f"no Ray cluster answers at {address} ({error}): write ray:auto or ray:HOST:PORT; {_REMEDY}"
        ) from error


def _how(error: BaseException) -> str:
    """What Ray knows of the end of a worker, in a few words."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:200]}" if said else type(error).__name__


def _perform(task: Task, messages: str, folder: str, settings: dict[str, str]) -> Failure | None:
    """What runs in a Ray worker: the task, as if in the driver's folder."""
    stopping.forget()
    os.environ.update(settings)
    try:
        sender = Sender(Path(messages))
    except StudyError as error:
        return failure_of(error)
    if os.path.isdir(folder):
        os.chdir(folder)  # Relative paths, of texts for instance, mean what they mean there.
    try:
        return task.perform(sender)
    finally:
        sender.close()


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
