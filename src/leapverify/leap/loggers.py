"""Where events go: a file of JSON lines, and the user's experiment logger."""

from __future__ import annotations

import json
import logging
import math
import numbers
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from leapverify.errors import NotWritten
from leapverify.leap.event import LeapEvent

Logger: TypeAlias = Callable[[dict[str, Any], int], None]
"""Takes an event and its step."""
PREFIX = "leap/"
"""Begins the name of every number in a logger, so that a dashboard keeps them together."""
ACCEPTED = (
    "an object with log(dict, step=) (wandb, trackio), add_scalar (a tensorboard SummaryWriter) or "
    "log_metrics(dict, step=) (mlflow, Lightning loggers), or a function of (dict, step)"
)


class JsonLines:
    """One JSON object a line, appended to a file; an unfinished last line of a killed run is left alone.

    Args:
        path: the file; it and its folder are made at the first line.

    Raises:
        ValueError: no path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise ValueError(f"log is {path!r}: give the path of a file")
        self.path = Path(path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line, flushed to the system; numbers that are not finite become null.

        Raises:
            NotWritten: the disk is full, or the file cannot be written.
        """
        line = json.dumps(_plain(record), allow_nan=False, default=str) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            begin = "\n" if _is_unfinished(self.path) else ""
            with self.path.open("ab") as handle:
                handle.write((begin + line).encode())
        except OSError as error:
            raise NotWritten(
                f"{self.path} cannot be written ({error.strerror or error}): free some space or name another file"
            ) from error


def as_logger(target: Any) -> Logger:
    """One function for any of the usual experiment loggers; it sends the numbers of an event, named `leap/...`.

    Args:
        target: anything with `log(dict, step=...)`, with `add_scalar(name, value, step)` or with
            `log_metrics(dict, step=...)`, or a function of (dict, step), which is given the same dict.

    Returns:
        A function of the event as a dict and its step. It sends nothing where the event holds no number.

    Raises:
        ValueError: anything else, a class in place of an object, or a logger of the standard library.
    """
    send = _sender(target)

    def log(record: dict[str, Any], step: int) -> None:
        numeric = {PREFIX + name: value for name, value in _numbers(record)}
        if numeric:
            send(numeric, step)

    return log


def _sender(target: Any) -> Logger:
    if isinstance(target, type):
        raise ValueError(f"the logger {target.__name__} is a class: make an object of it and pass that")
    # Asked for in this order: mlflow and Lightning's loggers have more than one of these.
    if callable(getattr(target, "add_scalar", None)):
        return lambda record, step: _scalars(target, record, step)
    if callable(getattr(target, "log_metrics", None)):
        return lambda record, step: target.log_metrics(record, step=step)
    if callable(getattr(target, "log", None)) and not isinstance(target, logging.Logger | logging.LoggerAdapter):
        return lambda record, step: target.log(record, step=step)
    if callable(target):
        return target
    raise ValueError(f"a {type(target).__name__} is no logger: pass {ACCEPTED}")


def _scalars(writer: Any, record: Mapping[str, Any], step: int) -> None:
    for name, value in record.items():
        writer.add_scalar(name, value, step)


def _numbers(record: Mapping[Any, Any], parent: str = "") -> Iterator[tuple[str, float]]:
    """The finite numbers of a nested dict, with the names on the way joined by slashes."""
    for key, value in record.items():
        name = f"{parent}{key}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{name}/")
        elif isinstance(value, numbers.Real) and math.isfinite(value):
            yield name, int(value) if isinstance(value, numbers.Integral) else float(value)


def _plain(value: Any) -> Any:
    """The value as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None


def _is_unfinished(path: Path) -> bool:
    """Whether a file's last line does not end; never of what is no regular file."""
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as handle:
        handle.seek(-1, os.SEEK_END)
        return handle.read(1) != b"\n"


logger = logging.getLogger(__name__)
KEPT_EVENTS = 1000


class EventLog:
    """Keeps the newest events, and writes each to a file and to experiment loggers.

    Args:
        path: file for JSON lines; None for none.
        loggers: whatever `as_logger` takes, or a list of such.
        heard: whether file and loggers are written; of several ranks one writes, and the others keep events only.

    Raises:
        ValueError: a logger that is none, or no path.
    """

    def __init__(self, path: str | os.PathLike[str] | None, loggers: Any, *, heard: bool = True) -> None:
        self.events: list[LeapEvent] = []
        self._lines = None if path is None else JsonLines(path)
        several = isinstance(loggers, list | tuple | set | frozenset)
        self._loggers = [as_logger(each) for each in (loggers if several else [] if loggers is None else [loggers])]
        if not heard:
            self._lines, self._loggers = None, []

    def log(self, event: LeapEvent) -> None:
        """Keep an event and pass it on; what cannot be written or logged ends that log alone."""
        self.events = [*self.events, event][-KEPT_EVENTS:]
        record = event.to_dict()
        try:
            if self._lines is not None:
                self._lines.append(record)
        except Exception as error:
            logger.warning("leapverify writes its log no more, training and leaping go on: %s", error)
            self._lines = None
        for send in list(self._loggers):
            try:
                send(record, event.step)
            except Exception as error:
                logger.warning("leapverify logs to %r no more, training and leaping go on: %s", send, error)
                self._loggers.remove(send)
