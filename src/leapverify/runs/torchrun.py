"""Processes that torchrun has started: they find one another, and end together.

Under torchrun every process has RANK, WORLD_SIZE, LOCAL_RANK and where to meet in its environment. Rank 0 speaks and
writes; the others are silent.
"""

from __future__ import annotations

import datetime
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from leapverify.core.ranks import Ranks, ranks_of_world
from leapverify.errors import ConfigError, RanksDivergedError, StudyError
from leapverify.runs.failure import failure_message
from leapverify.runs.launched import launched
from leapverify.runs.on_ranks import GRACE_S, announce, announced

logger = logging.getLogger(__name__)

PATIENCE_S = 1800.0
"""How long a rank waits for another, at a meeting or in a collective: rank 0 may be tokenizing the text."""
LOOK_S = 1.0
"""How often a rank looks whether another has left word of an error."""

_state = {"ranked": False}


@contextmanager
def world(patience_s: float = PATIENCE_S) -> Iterator[Ranks]:
    """The ranks that torchrun started, able to meet inside the block; without torchrun this process alone.

    On the CPU they talk by gloo; where there is CUDA, tensors on it by NCCL, each rank on the GPU of its LOCAL_RANK.

    Raises:
        ConfigError: more ranks than GPUs on a machine.
        StudyError: instead of RanksDivergedError.
    """
    if not launched():
        yield Ranks()
        return
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        _take_gpu(int(os.environ.get("LOCAL_RANK") or 0), torch.cuda.device_count())
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=patience_s))
    _state["ranked"] = True
    try:
        ranks = ranks_of_world(patience_s=patience_s)
        with _watched(ranks):
            yield ranks
        dist.destroy_process_group()
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, RanksDivergedError):
            dist.destroy_process_group()
        if isinstance(error, RanksDivergedError):
            raise StudyError(str(error)) from error
        raise


def leave(code: int) -> None:
    """End the process at once where it was one of several ranks.

    Threads that wait for ranks that have come apart would hold it, and threads of a process group that come back while
    the interpreter ends would abort it.
    """
    if _state["ranked"]:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _take_gpu(local_rank: int, gpus: int) -> None:
    import torch

    if local_rank >= gpus:
        raise ConfigError(
            f"LOCAL_RANK is {local_rank} where this machine has {gpus} GPUs: give torchrun at most --nproc-per-node "
            f"{gpus}"
        )
    torch.cuda.set_device(local_rank)


@contextmanager
def _watched(ranks: Ranks) -> Iterator[None]:
    """Have a thread look for errors of other ranks, which ends a process that hangs in a collective without them."""
    over = threading.Event()

    def watch() -> None:
        told: str | None = None
        while not over.wait(LOOK_S if told is None else 2 * GRACE_S):
            if told is not None and announced(ranks) == told:
                if ranks.rank == 0:
                    print(f"leapverify: {told}", file=sys.stderr, flush=True)
                os._exit(1)
            told = announced(ranks)

    watching = threading.Thread(target=watch, daemon=True, name="leapverify-ranks")
    watching.start()
    try:
        yield
    except RanksDivergedError:
        raise
    except Exception as error:
        announce(ranks, failure_message(error))
        raise
    finally:
        over.set()
        # A thread that comes back from the store while the interpreter ends would abort the process.
        watching.join(GRACE_S)
