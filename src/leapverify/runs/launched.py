"""What torchrun tells a process by its environment; nothing here loads torch."""

from __future__ import annotations

import os


def launched() -> bool:
    """Whether torchrun has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ


def silent() -> bool:
    """Whether another process speaks for this one."""
    return launched() and os.environ["RANK"] != "0"
