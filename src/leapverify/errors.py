"""Errors that a user may meet; each message names the value and the remedy."""

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
    """A configuration that cannot be used; the message names the value and the remedy."""


class StudyError(RuntimeError):
    """A study that cannot go on; the message names what happened and the remedy."""


class Paused(StudyError):
    """A study that stopped where the same command goes on: its time was over, or it was told to; nothing is lost."""
