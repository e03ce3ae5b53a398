"""Where events go: memory, a file, loggers. A place that fails is dropped, and nothing else is."""

from __future__ import annotations

import logging
import os
from typing import Any

from leapverify.leap.event import LeapEvent
from leapverify.leap.sinks import JsonLines, as_logger

logger = logging.getLogger(__name__)

KEPT_EVENTS = 1000


class Teller:
    """Keeps the newest events and passes each on.

    Args:
        path: file for JSON lines; None for none.
        loggers: whatever `as_logger` takes, or a list of such.
        heard: whether anybody is told; of several ranks one tells, and the others keep events only.

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

    def tell(self, event: LeapEvent) -> None:
        """Keep an event and pass it on."""
        self.events = [*self.events, event][-KEPT_EVENTS:]
        record = event.to_dict()
        try:
            if self._lines is not None:
                self._lines.append(record)
        except Exception as error:
            logger.warning("leapverify writes its log no more, training and leaping go on: %s", error)
            self._lines = None
        for log in list(self._loggers):
            try:
                log(record, event.step)
            except Exception as error:
                logger.warning("leapverify logs to %r no more, training and leaping go on: %s", log, error)
                self._loggers.remove(log)
