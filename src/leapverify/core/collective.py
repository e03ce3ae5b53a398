"""Work that one rank does for all, or each for itself, and that succeeds on all ranks or fails alike on all."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

from leapverify.core.ranks import Ranks
from leapverify.errors import RanksDivergedError

Value = TypeVar("Value")
ON_ALL = "on_all_ranks"
"""Attribute of an error that every rank raises at this point."""


def on_rank0(ranks: Ranks, place: str, work: Callable[[], Value]) -> Value:
    """What rank 0's work gave, on every rank; the others wait.

    Args:
        ranks: all of them call this at the same point.
        place: a name for that point, see `Ranks.all_gather`.
        work: called on rank 0 alone; what it returns must pickle. What it raises, every rank raises.
    """
    found: Value = on_all_ranks(ranks, place, work if ranks.rank == 0 else _nothing)[0]
    return found


def on_all_ranks(ranks: Ranks, place: str, work: Callable[[], Value]) -> list[Value]:
    """What every rank's own work gave, by rank.

    Arguments as for `on_rank0`, but that the work is called on every rank. Every rank raises the error of the lowest
    rank that had one.
    """
    if ranks.alone:
        return [work()]
    try:
        outcome: tuple[Value | None, Exception | None] = work(), None
    except RanksDivergedError:
        raise
    except Exception as error:
        outcome = None, as_sent(error)
    outcomes = ranks.all_gather(place, outcome)
    for _, failure in outcomes:
        if failure is not None:
            failure.__dict__[ON_ALL] = True
            raise failure
    return [value for value, _ in outcomes]  # type: ignore[misc]


def _nothing() -> Any:
    return None


def as_sent(error: Exception) -> Exception:
    """The error itself if it travels, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
