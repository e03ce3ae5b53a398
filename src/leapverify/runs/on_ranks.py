"""One task after another, each by all ranks of torchrun together: rank 0 drives, the others follow.

A task that fails alike everywhere is a failed task, and the next one is begun. An error of one rank alone ends the run
on all of them: it is told at the next meeting, or, where the others wait inside a collective of the model, left in the
store of the process group, whose reader learns why the connection was closed.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from leapverify.core.collective import ON_ALL, as_sent
from leapverify.core.ranks import Ranks, ranks_of_world
from leapverify.errors import RanksDivergedError, StudyError
from leapverify.runs.executors import AUTOMATIC, Execution
from leapverify.runs.failure import Failure, failure_message, failure_of
from leapverify.runs.progress import Watcher, ignore
from leapverify.runs.task import Ended, Executor, Task, nobody, one_by_one
from leapverify.runs.world import among, present

logger = logging.getLogger(__name__)
Value = TypeVar("Value")

NEXT = "next task"
DRIVING_S = 24 * 3600.0
"""How long the others wait for what rank 0 does between tasks, alone: to tokenize, compare seeds, write reports. Should
it end before, its connections close, and nobody waits."""
GRACE_S = 5.0
"""How long a rank with an error waits for the others to come to a meeting, before it leaves."""
ANNOUNCED = "leapverify/failed"
_GONE = re.compile(r"Connection (closed|reset) by peer|Broken pipe|[Tt]imed? ?out|NCCL error")


@dataclass(frozen=True)
class _Over:
    """What rank 0 sends at the end."""

    error: Exception | None


def over_ranks(ranks: Ranks, drive: Callable[[Execution], Value], alone: Execution = AUTOMATIC) -> Value | None:
    """Drive something on rank 0 whose tasks all ranks then do together; every rank calls this.

    Args:
        ranks: those of the run.
        drive: called on rank 0 alone, with what runs its tasks.
        alone: what runs them where there is one process.

    Returns: what `drive` gave; None on the other ranks.

    Raises:
        Exception: what `drive` raised, on every rank.
        RanksDivergedError: a rank had an error of its own.
    """
    if ranks.alone:
        return drive(alone)
    turns = ranks_of_world(patience_s=DRIVING_S)
    with among(ranks):
        if ranks.rank:
            _follow(ranks, turns)
            return None
        try:
            found = drive(OnRanks.execution(turns))
        except RanksDivergedError:
            raise
        except Exception as error:
            _end(ranks, turns, error)
            raise
        _end(ranks, turns, None)
        return found


def _end(ranks: Ranks, turns: Ranks, error: Exception | None) -> None:
    if ranks.over is None:
        turns.broadcast(NEXT, _Over(None if error is None else as_sent(error)))


def _follow(ranks: Ranks, turns: Ranks) -> None:
    """Do rank 0's tasks with it until there are no more."""
    while isinstance(task := turns.broadcast(NEXT, None), Task):
        together(ranks, task, ignore)
    assert isinstance(task, _Over)
    if task.error is not None:
        raise task.error


@dataclass(frozen=True)
class _ByRanks(Execution):
    """All ranks run each task together."""

    turns: Ranks = field(default_factory=Ranks)
    """Where rank 0 tells the others what comes next."""

    def side_by_side(self, tasks: int, threads: int, device: str) -> int:
        """One at a time: every task has all ranks."""
        del tasks, threads, device
        return 1

    def open(self, folder: Path, workers: int) -> Executor:
        """The executor of the present ranks."""
        del folder, workers
        return OnRanks(present(), self.turns)


class OnRanks:
    """The executor of rank 0; the others are in `over_ranks`."""

    def __init__(self, ranks: Ranks, turns: Ranks) -> None:
        self._ranks, self._turns = ranks, turns

    @staticmethod
    def execution(turns: Ranks) -> Execution:
        """What a study is given to be run so."""
        return _ByRanks("ranks", turns=turns)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        del error

    def run(self, tasks: Sequence[Task], watcher: Watcher, ended: Ended = nobody) -> dict[str, Failure]:
        """Every task, in their order.

        Raises:
            RanksDivergedError: a rank had an error of its own.
        """

        def do(task: Task) -> Failure | None:
            self._turns.broadcast(NEXT, task)
            return together(self._ranks, task, task.labels(watcher))

        return one_by_one(tasks, do, ended)


def together(ranks: Ranks, task: Task, watcher: Watcher) -> Failure | None:
    """Do a task on all ranks; why it failed, if it failed alike on all of them.

    Raises:
        RanksDivergedError: a rank had an error that the others had not.
    """
    try:
        task.call(watcher)
    except RanksDivergedError:
        raise
    except Exception as error:
        logger.debug("seed %d failed", task.seed, exc_info=True)
        return _alike(ranks, error)
    ranks.all_gather("end of the task", None)
    return None


def _alike(ranks: Ranks, error: Exception) -> Failure:
    """The failure, if all ranks have it."""
    reason = _reason(error)
    known = isinstance(error, StudyError | ValueError) or hasattr(error, ON_ALL)
    if not known and (told := announced(ranks)):
        raise RanksDivergedError(told) from error  # the others are gone, and that is why a collective failed here
    announce(ranks, reason)
    outcome: list[RanksDivergedError | None] = []

    def meet() -> None:
        try:
            if known:
                ranks.all_gather(f"the end of a task that failed ({reason})", None)
                outcome.append(None)
            else:
                ranks.fail(reason)
                outcome.append(RanksDivergedError(f"rank {ranks.rank}: {reason}"))
        except RanksDivergedError as apart:
            outcome.append(apart)

    # A daemon: where the others never come, it must not hold the process.
    waiting = threading.Thread(target=meet, daemon=True)
    waiting.start()
    waiting.join(GRACE_S)
    apart = outcome[0] if outcome else RanksDivergedError(f"rank {ranks.rank}: {reason}")
    if apart is None:
        _withdraw(ranks)
    if apart is not None:
        ranks.over = ranks.over or str(apart)
        raise apart from error
    return failure_of(error)


def _reason(error: Exception) -> str:
    """One sentence for an error; what a collective says of a rank that has gone is a page of its library's words."""
    gone = _GONE.search(str(error)) if isinstance(error, RuntimeError) else None
    if gone is None:
        return failure_message(error)
    return (
        f"waited for a rank that has ended ({gone[0]}): look for what ended it, and give the same command again to go "
        "on from the last checkpoint"
    )


def announce(ranks: Ranks, reason: str) -> None:
    """Leave word of an error where ranks find it that are not at a meeting."""
    store = _store()
    if store is not None:
        store.set(f"{ANNOUNCED}/{ranks.rank}", reason)


def _withdraw(ranks: Ranks) -> None:
    store = _store()
    if store is not None:
        store.delete_key(f"{ANNOUNCED}/{ranks.rank}")


def announced(ranks: Ranks) -> str | None:
    """The errors of other ranks, `rank 1: ...`; None: there are none."""
    store = _store()
    if store is None:
        return None
    others = [rank for rank in range(ranks.size) if rank != ranks.rank]
    found = [rank for rank in others if store.check([f"{ANNOUNCED}/{rank}"])]
    return "; ".join(f"rank {rank}: {store.get(f'{ANNOUNCED}/{rank}').decode()}" for rank in found) or None


def _store() -> Any:
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return None
    return dist.distributed_c10d._get_default_store()
