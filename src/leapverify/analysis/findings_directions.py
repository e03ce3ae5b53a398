"""What is left of the likeness of two fingerprints without the direction in which each varies most."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from leapverify.analysis.geometry import linear_cka
from leapverify.records import SeedMeasure

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
