"""What the findings are drawn from: the records of a base study and of its variations, by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from leapverify.records import Checkpoint, Prediction, SeedMeasure

BASE = "base"
RATES_AND_INTERVALS = ("rate-half", "rate-double", "interval-half", "interval-double")
CONSTANT = ("constant", "constant-quarter", "constant-sixteenth")
"""The rate stays where it is after the warm-up: at the base study's peak, at a quarter and at a sixteenth of it."""
LARGER = "larger"
SHARED_INIT = "shared-init"
HALF_MOMENTS = "half-moments"
PAPER_RATE, BFLOAT16, STOCHASTIC = "paper-rate", "bfloat16", "bfloat16-stochastic"
LENGTHS = ("length-0.6", "length-0.8", "length-1.2")


@dataclass(frozen=True)
class Records:
    """The rows of one study, all seeds, and what of its configuration the claims need."""

    checkpoints: Sequence[Checkpoint]
    predictions: Sequence[Prediction]
    measures: Sequence[SeedMeasure]
    peak: float
    """Of eta."""
    warmup: int
    """Steps."""
    steps: int
    """Of one seed."""
    interval: int
    """Delta, steps."""
    parameters: int | None

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Every seed that has a checkpoint."""
        return tuple(sorted({row.seed for row in self.checkpoints}))

    @cached_property
    def at(self) -> Mapping[tuple[int, int], Checkpoint]:
        """(seed, step) -> checkpoint."""
        return {(row.seed, row.step): row for row in self.checkpoints}

    @cached_property
    def settled(self) -> Sequence[Checkpoint]:
        """Labelled checkpoints whose whole interval lies behind the warm-up: before it, eta and the clock rise."""
        first = self.warmup + self.interval
        return [row for row in self.checkpoints if row.step >= first and angle(row) is not None]

    def judged(self, predictor: str, horizon: int | None = None) -> list[Prediction]:
        """Predictions of one predictor (at one horizon) that were made, the non-finite included."""
        return [
            row
            for row in self.predictions
            if row.predictor == predictor and row.status != "declined" and horizon in (None, row.horizon)
        ]

    @cached_property
    def horizons(self) -> tuple[int, ...]:
        """K, ascending, steps."""
        return tuple(sorted({row.horizon for row in self.predictions}))


@dataclass(frozen=True)
class Evidence:
    """Every study that is there, and why the others are not."""

    studies: Mapping[str, Records]
    missing: Mapping[str, str]

    def get(self, name: str) -> Records | None:
        """One study, if it is there."""
        return self.studies.get(name)

    def those(self, names: Iterable[str]) -> dict[str, Records]:
        """Of the named studies those that are there."""
        return {name: self.studies[name] for name in names if name in self.studies}

    def why(self, *names: str) -> str:
        """Why the named studies cannot be used."""
        said = [f"{name} {self.missing.get(name, 'was not run')}" for name in names if name not in self.studies]
        return "; ".join(said)


def common_seeds(studies: Iterable[Records]) -> list[int]:
    """The seeds that every study has; none without a study."""
    sets = [set(study.seeds) for study in studies]
    return sorted(set.intersection(*sets)) if sets else []


def angle(row: Checkpoint) -> float | None:
    """The angle that the fingerprint turned by over the interval, acos(s_t) in radians.

    None where there is no similarity, or one of exactly 1, whose angle has no logarithm.
    """
    s = row.similarity
    if s is None or not math.isfinite(s) or s >= 1.0:
        return None
    return math.acos(max(-1.0, s))
