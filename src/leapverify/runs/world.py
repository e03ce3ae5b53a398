"""The ranks that this process is one of, for whatever runs in it; without torchrun it is alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from leapverify.core.ranks import Ranks

_state = {"ranks": Ranks()}


def present() -> Ranks:
    """The ranks that work on the same tasks together."""
    return _state["ranks"]


@contextmanager
def among(ranks: Ranks) -> Iterator[None]:
    """Inside, this process is one of these ranks."""
    before = _state["ranks"]
    _state["ranks"] = ranks
    try:
        yield
    finally:
        _state["ranks"] = before


def ranks_here() -> int:
    """How many of the ranks share this machine's cores."""
    if present().alone:
        return 1
    return int(os.environ.get("LOCAL_WORLD_SIZE") or present().size)
