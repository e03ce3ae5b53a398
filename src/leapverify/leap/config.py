"""What a user may choose, checked in one place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch

from leapverify.leap.ledger import Clock
from leapverify.trajectory.history import STORAGE
from leapverify.verify.comparison import CRITERIA
from leapverify.verify.sequential import MINIMUM, PairedTest

Mode = Literal["off", "monitor", "shadow", "live"]
AfterSchedule = Literal["advance", "keep"]
AfterMoments = Literal["keep", "reset"]

AUTO_BUDGET = 0.01
"""Share of the run's time that the policy `auto` may spend unless it is told otherwise."""


@dataclass(frozen=True)
class Options:
    """The choices of one engine."""

    mode: Mode
    interval: int
    """Delta, real steps between checkpoints."""
    budget: float | None
    alpha: float
    sequences: int
    criterion: str
    history_device: str | None
    history_dtype: torch.dtype
    schedule: AfterSchedule
    moments: AfterMoments
    total_steps: int | None
    clock: Clock
    step_tokens: float | None
    include: Callable[[str], bool] | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("mode", self.mode, get_args(Mode)),
            ("schedule", self.schedule, get_args(AfterSchedule)),
            ("moments", self.moments, get_args(AfterMoments)),
            ("criterion", self.criterion, CRITERIA),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r} is unknown: use one of {', '.join(known)}")
        for name, number in (("interval", self.interval), ("sequences", self.sequences)):
            if not _is_whole(number):
                raise ValueError(f"{name} is {number!r}: give a whole number of at least 1")
        if self.criterion == "paired" and self.sequences < MINIMUM:
            raise ValueError(
                f"sequences is {self.sequences}: the paired test looks at {MINIMUM} of them first, so give at least as "
                "many"
            )
        if self.total_steps is not None and not _is_whole(self.total_steps):
            raise ValueError(
                f"total_steps is {self.total_steps!r}: give the optimizer steps of the whole run, a whole number"
            )
        if self.history_dtype not in STORAGE:
            raise ValueError(f"history_dtype {self.history_dtype} is not kept: use float32, float16 or bfloat16")
        _require_device(self.history_device)
        self._require_numbers()
        PairedTest(self.alpha)

    def _require_numbers(self) -> None:
        if not _is_number(self.alpha):
            raise ValueError(f"alpha is {self.alpha!r}: give a number between 0 and 0.5, such as 0.05")
        if self.budget is not None and not (_is_number(self.budget) and self.budget > 0.0):
            raise ValueError(
                f"budget is {self.budget!r}: give a share of the run's time above 0 and up to 1, such as 0.01"
            )
        if self.step_tokens is not None and not _is_number(self.step_tokens):
            raise ValueError(
                f"step_tokens is {self.step_tokens!r}: give a number, 3 x the positions of one training step"
            )

    @property
    def shared(self) -> dict[str, Any]:
        """What every rank has to be given alike, as plain values."""
        every = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "include"}
        return {**every, "history_dtype": str(self.history_dtype)}

    @property
    def tries(self) -> bool:
        """Whether predictions are made at all."""
        return self.mode in ("shadow", "live")

    @property
    def ruled_by(self) -> float | None:
        """The budget; None where none holds."""
        return None if self.budget is None or math.isinf(self.budget) else self.budget


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require_device(name: object) -> None:
    """Refuse what is no device to keep snapshots on, or one that is not here.

    Raises:
        ValueError: it is neither None nor the name of a device in this machine.
    """
    if name is None:
        return
    try:
        if not isinstance(name, str) or torch.device(name).type == "meta":
            raise ValueError("no memory")
        torch.empty(0, device=name)
    except Exception as error:  # what torch raises depends on how it was built
        raise ValueError(
            f"history_device is {name!r}, which holds no memory here: give None for beside the weights, or 'cpu'"
        ) from error
