"""A live engine whose log or logger is refused at one event."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from leap_faults import MODES, STEPS, Fault, plain_end
from leap_loops import fingerprint_of, make

IN_FILE = ("mkdir", "open", "read", "write", "half a line", "flush", "close")
IN_LOGGERS = ("log", "add_scalar", "log_metrics", "function")
PLACES = IN_FILE + IN_LOGGERS


@dataclass(frozen=True)
class Logged:
    """What became of one refusal."""

    kind: str
    fired: bool
    lost: str | None


def logged(path: Path, name: str, place: str, number: int, at: int, *, seed: int) -> Logged:
    """A run with an engine that logs to a file and to loggers, one of which is refused at its n-th event.

    Args:
        path: of the log.
        name: of the loop.
        place: what is refused.
        number: the system's error.
        at: the event, counted from 1.
        seed: of the loop.
    """
    path.unlink(missing_ok=True)  # of a try before, whose fault found no event
    fault, heard = Refusal(place, number, at, path), list[int]()
    wanted = plain_end(name, Fault("none", 0), seed)
    loop = make(name, seed)
    mode = list(MODES.values())[(seed + at) % len(MODES)]
    loggers = [lambda record, step: heard.append(step), *([fault.logger()] if place in IN_LOGGERS else [])]
    leap = loop.leap(log=path, loggers=loggers, **mode)
    with patch.object(io, "open", fault.opened()), patch.object(os, "mkdir", fault.mkdir):
        loop.run(STEPS, leap)
    if fingerprint_of(loop) != wanted:
        return Logged(place, fault.fired, "training did not end as without the engine")
    told = [event.step for event in leap.events]
    if heard != told:
        return Logged(place, fault.fired, f"a healthy logger heard {heard} of {told}")
    return Logged(place, fault.fired, _wrong_lines(path, told, place, at) or leap.disabled)


def _wrong_lines(path: Path, told: list[int], place: str, at: int) -> str | None:
    """What is wrong with the file: it holds the events before the fault in whole lines; all of them without one."""
    lines = path.read_text().splitlines() if path.is_file() else []
    whole = []
    for line in lines:
        try:
            whole.append(json.loads(line)["step"])
        except ValueError:
            if line is not lines[-1]:
                return "a broken line is not the last"
    least = told if place in IN_LOGGERS else told[: at - 1]
    if whole[: len(least)] != least or whole != told[: len(whole)]:
        return f"the file holds {whole} of {told}"
    return None


class Refusal:
    """Refuses the n-th call of its place.

    Args:
        place: one of `PLACES`.
        number: the system's error.
        at: which call, counted from 1.
        log: the file.
    """

    def __init__(self, place: str, number: int, at: int, log: Path) -> None:
        self.place, self.number, self.at, self.log = place, number, at, log
        self.fired, self._calls = False, 0
        self._mkdir, self._open = os.mkdir, io.open

    def now(self, place: str) -> None:
        """Count one call, and refuse it if it is the one."""
        if place != self.place:
            return
        self._calls += 1
        if self._calls == self.at:
            self.fired = True
            raise OSError(self.number, os.strerror(self.number))

    def mkdir(self, path: Any, *arguments: Any, **more: Any) -> None:
        """Refuses the log's folder."""
        if path == self.log.parent:
            self.now("mkdir")
        self._mkdir(path, *arguments, **more)

    def opened(self) -> Callable[..., Any]:
        """`open` with a file in the log's place whose calls may be refused."""

        def opening(path: Any, mode: str = "r", *arguments: Any, **more: Any) -> Any:
            if path != self.log:
                return self._open(path, mode, *arguments, **more)
            self.now("read" if mode == "rb" else "open")
            if mode == "rb":
                return self._open(path, mode, *arguments, **more)
            return _Buffered(_Raw(str(path), mode.replace("b", "")), self)

        return opening

    def logger(self) -> Any:
        """A logger of the kind that is to be refused."""

        def log(*_: Any, **__: Any) -> None:
            self.now(self.place)

        return log if self.place == "function" else type("Logger", (), {self.place: staticmethod(log)})()


class _Raw(io.FileIO):
    """A file that takes half of what it is given, once it is told so."""

    half: OSError | None = None

    def write(self, data: Any) -> int:
        if self.half is not None:
            super().write(bytes(data)[: len(data) // 2])
            refused, self.half = self.half, None
            raise refused
        return super().write(data)


class _Buffered(io.BufferedWriter):
    """The log as it is written."""

    def __init__(self, raw: _Raw, fault: Refusal) -> None:
        super().__init__(raw)
        self._raw, self._fault = raw, fault

    def write(self, data: Any) -> int:
        self._fault.now("write")
        try:
            self._fault.now("half a line")
        except OSError as error:
            self._raw.half = error
        return super().write(data)

    def flush(self) -> None:
        self._fault.now("flush")
        super().flush()

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._fault.now("close")
