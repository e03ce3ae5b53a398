"""What a user may choose, checked in one place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from leapverify.history import STORAGE
from leapverify.leap.ledger import Clock
from leapverify.verify.comparison import CRITERIA
from leapverify.verify.sequential import PairedTest

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
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} is {number!r}: give a whole number of at least 1")
        if self.total_steps is not None and self.total_steps < 1:
            raise ValueError(f"total_steps is {self.total_steps}: give the optimizer steps of the whole run")
        if self.history_dtype not in STORAGE:
            raise ValueError(f"history_dtype {self.history_dtype} is not kept: use float32, float16 or bfloat16")
        PairedTest(self.alpha)

    @property
    def tries(self) -> bool:
        """Whether predictions are made at all."""
        return self.mode in ("shadow", "live")

    @property
    def ruled_by(self) -> float | None:
        """The budget; None where none holds."""
        return None if self.budget is None or math.isinf(self.budget) else self.budget
