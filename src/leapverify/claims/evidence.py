"""What claims are judged by: the records of a base study and of its variations, by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from leapverify.analysis.study.geometry import linear_cka
from leapverify.io.records import Checkpoint, Prediction, SeedMeasure

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
    warmup_steps: int
    steps: int
    """Of one seed."""
    interval_steps: int
    """Delta."""
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
        first = self.warmup_steps + self.interval_steps
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


NO_RECORDS = Records((), (), (), math.nan, 0, 0, 0, None)
"""Of a study that is not there."""


@dataclass(frozen=True)
class Evidence:
    """Every study that is there, and why the others are not."""

    studies: Mapping[str, Records]
    missing: Mapping[str, str]

    def __getitem__(self, name: str) -> Records:
        """One study; one without any row where it is not there."""
        return self.studies.get(name, NO_RECORDS)

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


BEYOND_FIRST, FIRST_DIRECTION = "cka_beyond_first", "first_direction"
"""Names of the measures."""
Fingerprints = Mapping[int, Mapping[int, NDArray[np.floating]]]
"""Seed -> step -> (probes, d); step 0 is the untrained model."""


def beyond_first(fingerprints: Fingerprints) -> list[SeedMeasure]:
    """At the last step common to all seeds: linear CKA of every pair, each fingerprint without its first principal
    direction, beside that of the untrained pair; and of every seed the share of variance in that direction.

    CKA is dominated by the largest directions: with one of 90 % of the variance it says little of the others.
    """
    common = set.intersection(*(set(steps) for steps in fingerprints.values())) if fingerprints else set()
    last = max(common, default=0)
    if last == 0:
        return []
    split = {seed: without_first(of_seed[last]) for seed, of_seed in fingerprints.items()}
    before = {seed: without_first(of_seed[0])[0] for seed, of_seed in fingerprints.items() if 0 in of_seed}
    rows = [
        SeedMeasure(FIRST_DIRECTION, last, None, seed, None, share, None, None, None, None)
        for seed, (_, share) in split.items()
    ]
    for a, b in combinations(sorted(split), 2):
        value = _cka(split[a][0], split[b][0])
        untrained = _cka(before[a], before[b]) if a in before and b in before else None
        rows.append(SeedMeasure(BEYOND_FIRST, last, None, a, b, value, None, None, None, untrained))
    return rows


def without_first(fingerprint: Float[np.ndarray, "probes d"]) -> tuple[Float[np.ndarray, "probes d"], float | None]:
    """The centred fingerprint less its first principal direction, and the share of the variance in that.

    The share is None where nothing varies.
    """
    centred = np.asarray(fingerprint, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    left, size, right = np.linalg.svd(centred, full_matrices=False)
    total = float((size**2).sum())
    rest = centred - size[0] * np.outer(left[:, 0], right[0])
    return rest, float(size[0] ** 2) / total if total > 0 else None


def _cka(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    value = linear_cka(a, b)
    return float(value) if np.isfinite(value) else None
