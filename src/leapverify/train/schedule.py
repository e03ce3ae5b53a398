"""The learning rate as a pure function of the optimizer step's number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

KINDS = ("cosine", "constant", "linear", "wsd")


@dataclass(frozen=True, slots=True)
class Schedule:
    """eta of optimizer step i (from 1): peak x warm-up share x shape((i - 1 - warmup) / (total - warmup)).

    With x from 0 to 1 after warm-up and f the floor: cosine f + (1 - f)(1 + cos(pi x))/2; linear f + (1 - f)(1 - x);
    constant 1; wsd 1 until the last `decay_steps` steps, then 1 - (1 - f) sqrt(share of the decay that is done).
    As in `transformers`, warm-up rises from 0: step 1 moves nothing when there is one.
    """

    kind: Literal["cosine", "constant", "linear", "wsd"]
    peak: float
    warmup_steps: int
    total_steps: int
    floor: float = 0.0
    """Share of the peak at which the decay ends."""
    decay_steps: int | None = None
    """Length of wsd's decay; a fifth of all steps by default."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"schedule {self.kind!r} is unknown: give one of {', '.join(KINDS)}")
        if not (math.isfinite(self.peak) and self.peak > 0):
            raise ValueError(f"peak learning rate {self.peak} is not positive and finite: give one such as 1e-3")
        if self.warmup_steps < 0 or self.total_steps < 1:
            raise ValueError(f"{self.warmup_steps} warm-up and {self.total_steps} total steps: give at least 0 and 1")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor {self.floor} is no share of the peak: give one from 0 to 1")
        if self.decay_steps is not None and not 0 < self.decay_steps <= self.total_steps:
            raise ValueError(f"decay_steps {self.decay_steps} is not from 1 to the {self.total_steps} total steps")

    def __call__(self, i: int) -> float:
        """eta of optimizer step number i, from 1; beyond the last step it stays where the decay ended."""
        if i < 1:
            raise ValueError(f"optimizer step {i} does not exist: they are numbered from 1")
        done = i - 1
        if done < self.warmup_steps:
            return self.peak * done / self.warmup_steps
        return self.peak * self._shape(done)

    def _shape(self, done: int) -> float:
        share = min(1.0, (done - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        if self.kind == "cosine":
            return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share))
        if self.kind == "linear":
            return self.floor + (1 - self.floor) * (1 - share)
        if self.kind == "wsd":
            length = self.decay_steps or max(1, self.total_steps // 5)
            decayed = min(1.0, max(0.0, (done - (self.total_steps - length)) / length))
            return 1 - (1 - self.floor) * math.sqrt(decayed)
        return 1.0

    def sum(self, step: int, count: int) -> float:
        """The sum of the etas of the `count` optimizer steps that follow step number `step`."""
        return math.fsum(self(i) for i in range(step + 1, step + count + 1))
