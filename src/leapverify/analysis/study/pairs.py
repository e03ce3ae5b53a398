"""Fingerprints of two seeds at the same step: linear CKA, Procrustes distance, RSA, each beside its null.

This answers what the paper leaves open (its section 2.1: direct comparison of fingerprints across seeds).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from leapverify.analysis.over_seeds import interval_over
from leapverify.analysis.study.geometry import (
    check_same_probes,
    distance_of_product,
    unit_factor,
    unit_gram,
    unit_ranks,
)
from leapverify.analysis.study.null import Null, permutations, shuffled_distances, shuffled_products, summarise
from leapverify.core.statistics import Interval
from leapverify.io.records import SeedMeasure

PROCRUSTES_SHUFFLES = 50
"""Shuffles behind the null of the Procrustes distance, which costs a singular value decomposition each."""

Pair = tuple[int, int]


def mean_over_pairs(values: Mapping[Pair, float]) -> tuple[list[int], Callable[[Sequence[int]], float | None]]:
    """The seeds of some pairs, and the mean over the pairs of any seeds drawn from them.

    Pairs share seeds, so an interval draws seeds, not pairs; a seed drawn twice makes no pair with itself.

    Args:
        values: (seed, seed) -> value, each pair once.
    """
    both = {**values, **{(b, a): value for (a, b), value in values.items()}}

    def mean(drawn: Sequence[int]) -> float | None:
        known = [both[pair] for pair in combinations(drawn, 2) if pair in both]
        return fmean(known) if known else None

    return sorted({seed for pair in values for seed in pair}), mean


def pairs_interval(values: Mapping[Pair, float]) -> tuple[Interval | None, int]:
    """Bootstrap interval over seeds of the mean over pairs of seeds, and how many seeds there are.

    Args:
        values: (seed, seed) -> value, each pair once.
    """
    seeds, mean = mean_over_pairs(values)
    return interval_over(seeds, mean), len(seeds)


@dataclass(frozen=True, slots=True)
class StepFingerprints:
    """The fingerprints of several seeds at one step, made ready for comparison."""

    seeds: tuple[int, ...]
    grams: NDArray[np.float64]
    """(seeds, probes, probes)"""
    ranks: NDArray[np.float64]
    """(seeds, probes, probes)"""
    factors: tuple[NDArray[np.float64], ...]
    """(probes, r) each; widths may differ."""


def compare_fingerprints(
    fingerprints: Mapping[int, Mapping[int, NDArray[np.floating]]],
    *,
    shuffles: int = 200,
    seed: int = 0,
    null_steps: int | None = 10,
) -> list[SeedMeasure]:
    """CKA, Procrustes distance and RSA of every pair of seeds at every step that both were observed at.

    Args:
        fingerprints: seed -> step -> array (probes, d); step 0 is the untrained model, if it was observed.
        shuffles: of the probes, for the null of CKA and RSA; Procrustes takes at most `PROCRUSTES_SHUFFLES`.
        seed: of the shuffles, which are the same for every pair and step.
        null_steps: the null is computed at about so many evenly spaced steps and the last one; None for all.

    Returns:
        Rows in the order of steps, then pairs. `untrained` is the pair's value at step 0. A value is null where a
        fingerprint is constant or not finite.

    Raises:
        ValueError: fingerprints of different numbers of probes, or of fewer than three.
    """
    steps = sorted({step for of_seed in fingerprints.values() for step in of_seed})
    untrained = _values(_shapes(fingerprints, 0)) if 0 in steps else {}
    trained = [step for step in steps if step > 0]
    with_null = set(_spaced(trained, null_steps))
    rows: list[SeedMeasure] = []
    for step in trained:
        shapes = _shapes(fingerprints, step)
        if len(shapes.seeds) < 2:
            continue
        nulls = _nulls(shapes, shuffles, seed) if step in with_null else {}
        for (measure, pair), value in _values(shapes).items():
            null, fresh = nulls.get((measure, pair)), untrained.get((measure, pair))
            band = (null.mean, null.low, null.high) if null else (None, None, None)
            rows.append(SeedMeasure(measure, step, None, *pair, value, *band, fresh))
    return rows


def _shapes(fingerprints: Mapping[int, Mapping[int, NDArray[np.floating]]], step: int) -> StepFingerprints:
    seeds = tuple(sorted(which for which, of_seed in fingerprints.items() if step in of_seed))
    arrays = [fingerprints[which][step] for which in seeds]
    for array in arrays:
        check_same_probes(arrays[0], array)
    grams = np.stack([unit_gram(array) for array in arrays])
    ranks = np.stack([unit_ranks(array) for array in arrays])
    return StepFingerprints(seeds, grams, ranks, tuple(unit_factor(array) for array in arrays))


def _values(shapes: StepFingerprints) -> dict[tuple[str, Pair], float | None]:
    values: dict[tuple[str, Pair], float | None] = {}
    for a, b in combinations(range(len(shapes.seeds)), 2):
        pair = shapes.seeds[a], shapes.seeds[b]
        values["cka", pair] = _existing(np.vdot(shapes.grams[a], shapes.grams[b]))
        values["procrustes", pair] = _existing(distance_of_product(shapes.factors[a].T @ shapes.factors[b]))
        values["rsa", pair] = _existing(np.vdot(shapes.ranks[a], shapes.ranks[b]))
    return values


def _nulls(shapes: StepFingerprints, shuffles: int, seed: int) -> dict[tuple[str, Pair], Null]:
    orders = permutations(shapes.grams.shape[1], shuffles, seed)
    nulls: dict[tuple[str, Pair], Null] = {}
    for b in range(1, len(shapes.seeds)):
        cka = shuffled_products(shapes.grams[:b], shapes.grams[b], orders)
        rsa = shuffled_products(shapes.ranks[:b], shapes.ranks[b], orders)
        for a in range(b):
            pair = shapes.seeds[a], shapes.seeds[b]
            nulls["cka", pair] = summarise(cka[a])
            nulls["rsa", pair] = summarise(rsa[a])
            distances = shuffled_distances(shapes.factors[a], shapes.factors[b], orders[:PROCRUSTES_SHUFFLES])
            nulls["procrustes", pair] = summarise(distances)
    return nulls


def _spaced(steps: Sequence[int], count: int | None) -> list[int]:
    """About `count` evenly spaced steps, the last one always among them."""
    if count is not None and count < 1:
        raise ValueError(f"null_steps = {count} leaves no step for the null: use at least 1, or None for all")
    if count is None or count >= len(steps):
        return list(steps)
    return [steps[round(position)] for position in np.linspace(len(steps) - 1, 0, count)]


def _existing(value: np.floating | NDArray[np.floating]) -> float | None:
    return float(value) if np.isfinite(value) else None
