"""Why work failed: one sentence, and whether another try or other settings help."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from leapverify.errors import Damaged, NotWritten, Paused, StudyError
from leapverify.runs import stopping


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task did not do its work."""

    message: str
    wrong_use: bool
    """Whether other settings are the remedy, not another try."""
    paused: bool = False
    """Whether only its time was over."""

    def __str__(self) -> str:
        return self.message


def require_leave(where: str) -> None:
    """Stop a piece of work that stands where it can go on, if this process has been told to.

    Args:
        where: completes `told to stop`, such as `at step 50 of seed 42`.

    Raises:
        Paused: it has.
    """
    if stopping.asked():
        raise Paused(f"told to stop {where} (SIGTERM): give the same command again to go on")


def in_one_line(error: object) -> str:
    """What an error says, its line breaks and runs of spaces as single spaces."""
    return " ".join(str(error).split())


def failure_message(error: BaseException) -> str:
    """One sentence for an error that ended a task."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full: free some space and give the same command again; everything saved so far is kept"
    text = in_one_line(error)
    expected = isinstance(error, StudyError | ValueError | OSError)
    return text if expected and text else f"{type(error).__name__}: {text}"


def failure_of(error: BaseException) -> Failure:
    """What an error that ended a task means for whoever asked for it."""
    wrong_use = isinstance(error, ValueError) and not isinstance(error, Damaged | NotWritten)
    return Failure(failure_message(error), wrong_use, isinstance(error, Paused))


def told_to_stop(seed: int) -> Failure:
    """The failure of a task that was not begun because this process was told to stop."""
    try:
        require_leave(f"before seed {seed} went on")
    except Paused as error:
        return failure_of(error)
    raise AssertionError("nobody was told to stop")
