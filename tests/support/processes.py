"""Several ranks on one machine for a test: forked, meeting over gloo through a file, with a time limit."""

from __future__ import annotations

import datetime
import multiprocessing
import tempfile
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # what DTensors import when first used: once here, not in every rank that is forked
import torch.distributed as dist

LIMIT_S = 180.0
"""No rank of a test may take longer: a hang is a failure."""


def run_ranks(size: int, work: Callable[..., Any], *arguments: Any, patience_s: float = 60.0) -> list[Any]:
    """What `work(*arguments)` returned on each of `size` ranks of a gloo world, by rank.

    The ranks are forked, so `work` may be a closure; what it returns must pickle (tensors as numpy).

    Args:
        size: ranks.
        work: runs on every rank with the default process group initialised.
        arguments: of `work`.
        patience_s: time limit of the group's collectives.

    Raises:
        AssertionError: a rank raised, died or hung; the message holds its traceback.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(size)]
        ranks = [
            context.Process(
                target=_rank, args=(rank, size, Path(folder) / "store", patience_s, pipe[1], work, arguments)
            )
            for rank, pipe in enumerate(pipes)
        ]
        with warnings.catch_warnings():
            # Newer Pythons warn of forks beside threads; those of torch that live here hold no lock.
            warnings.simplefilter("ignore", DeprecationWarning)
            for each in ranks:
                each.start()
        try:
            found = [
                _answer(rank, process, pipe[0]) for rank, (process, pipe) in enumerate(zip(ranks, pipes, strict=True))
            ]
        finally:
            for each in ranks:
                each.join(5.0)
                each.kill()
                each.join()
    failed = [f"rank {rank}:\n{value}" for rank, (fine, value) in enumerate(found) if not fine]
    assert not failed, "\n".join(failed)
    return [value for _, value in found]


def _answer(rank: int, process: Any, pipe: Any) -> tuple[bool, Any]:
    wait([pipe, process.sentinel], timeout=LIMIT_S)
    if pipe.poll():
        return pipe.recv()
    return False, f"no answer (exit code {process.exitcode}; none: it still ran after {LIMIT_S:g} s)"


def _rank(
    rank: int,
    size: int,
    store: Path,
    patience_s: float,
    pipe: Any,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=size,
            timeout=datetime.timedelta(seconds=patience_s),
        )
        answer = (True, work(*arguments))
    except BaseException:
        answer = (False, traceback.format_exc())
    pipe.send(answer)
    pipe.close()
    if dist.is_initialized() and answer[0]:
        dist.destroy_process_group()
