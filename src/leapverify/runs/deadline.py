"""A point in time that no change of the wall clock moves, wherever it is sent."""

from __future__ import annotations

import functools
import platform
import time
import uuid
from pathlib import Path
from typing import Self

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Deadline(float):
    """Seconds of the monotonic clock, which runs on evenly while the wall clock is put forward or back.

    Pickled it takes along where it was made: a process of the same machine reads the same clock. On another machine,
    whose monotonic clock began elsewhere, the moment is found again by the wall clocks of both.
    """

    @classmethod
    def after(cls, seconds: float) -> Self:
        """So many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds from now until then; negative once it has passed."""
        return float(self) - time.monotonic()

    def __reduce__(self) -> tuple[object, ...]:
        return _arrive, (float(self), time.time() + self.left_s, machine_id())


def _arrive(monotonic_s: float, wall_s: float, machine: str) -> Deadline:
    return Deadline(monotonic_s) if machine == machine_id() else Deadline.after(wall_s - time.time())


@functools.cache
def machine_id() -> str:
    """What processes that share a monotonic clock have in common: the start of their machine."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:  # pragma: no cover - another system
        return f"{platform.node()} {uuid.getnode()}"
