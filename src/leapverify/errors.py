"""Every error that leapverify raises on purpose; each message names the value and the remedy.

| error | what happened | what to do |
|---|---|---|
| `ConfigError` | a configuration or an option cannot be used | change the value that the message names |
| `StudyError` | a run cannot go on | do what the message says, then give the same command again |
| `Paused` | a run stopped on time or on request; nothing is lost | give the same command again |
| `Damaged` | a file is missing, cut off or altered | delete it or put back a copy, then repeat the command |
| `NotWritten` | a file could not be written | free some space, or name a folder that you may write |
| `Declined` | a predictor has less than it needs | take more snapshots, or set what the message names |
| `RanksDivergedError` | one of several processes failed or called something else | mend that rank, start all again |

Wrong arguments raise `ValueError`, of which `ConfigError`, `Damaged` and `NotWritten` are kinds.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def hint(name: str, known: Iterable[str], listed: Iterable[str] | None = None) -> str:
    """What to write instead of an unknown name: the one nearest to it, or all that there are.

    Args:
        name: what was given.
        known: the names that are understood.
        listed: those that are listed where none is near; None: all of them.

    >>> hint("tinny", ["tiny", "gpt2-124m"])
    'did you mean tiny?'
    >>> hint("x", ["tiny", "gpt2-124m"])
    'there are tiny, gpt2-124m'
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known if listed is None else listed)}"


class ConfigError(ValueError):
    """A configuration that cannot be used."""


class StudyError(RuntimeError):
    """A run that cannot go on."""


class Paused(StudyError):
    """A run that stopped where the same command goes on: its time was over, or it was told to. Nothing is lost."""


class Damaged(ValueError):
    """A file that is missing, truncated or altered."""


class NotWritten(ValueError):
    """A file that could not be written: the disk is full, or the folder is read-only."""


class Declined(Exception):
    """A predictor has less than it needs. This is no verdict on the weights."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """What is missing, without a full stop: it becomes a cell of a table."""


class RanksDivergedError(RuntimeError):
    """The processes of a run cannot go on together: one failed, stands elsewhere, or did not come. All are told."""
