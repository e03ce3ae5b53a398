"""Commands under torchrun: one process speaks, all work, and they end with one exit code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from leapverify.runs.launched import launched

if TYPE_CHECKING:
    from leapverify.runs import Execution

ON_RANKS = frozenset({"study", "race"})
"""Commands whose work the ranks of torchrun do together."""


def require_one_process(words: Sequence[str]) -> None:
    """Refuse, under torchrun, what one process does.

    Args:
        words: of the command line.

    Raises:
        ConfigError: the command works in one process.
    """
    if launched() and words and not words[0].startswith("-") and words[0] not in ON_RANKS:
        from leapverify.errors import ConfigError

        raise ConfigError(f"leapverify {words[0]} works in one process: start it without torchrun")


def on_ranks(drive: Callable[[Execution], None], executor: str | None, workers: int | None) -> None:
    """Drive a command in this process, or on rank 0 of torchrun while the other ranks follow.

    Args:
        drive: the command, given what runs its tasks; shows progress and results.
        executor, workers: the options, see `execution`.

    Raises:
        ConfigError: one of them is given, and torchrun has started several ranks.
    """
    from leapverify.errors import ConfigError
    from leapverify.runs import execution
    from leapverify.runs.on_ranks import over_ranks
    from leapverify.runs.torchrun import world

    alone = execution(executor, workers)
    if launched() and (executor is not None or workers is not None):
        raise ConfigError(
            "--executor and --workers share out tasks, which under torchrun all ranks do together: leave them out, or "
            "start one process"
        )
    with world() as ranks:
        over_ranks(ranks, drive, alone)


def end_of_rank(code: int) -> None:
    """End the process at once where it was one of the ranks of torchrun."""
    if launched():
        from leapverify.runs.torchrun import leave

        leave(code)
