"""What two unrelated representations would score: the measures with the probes of one side shuffled.

A shuffle keeps each representation's own geometry and destroys only the correspondence of probes, so that the null
carries whatever value the measure has for reasons of width and spectrum alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from leapverify.analysis.study.geometry import distance_of_product

_BLOCK = 1 << 20
"""Gathered numbers held at a time (8 MiB): bounds memory for large probe sets."""


@dataclass(frozen=True, slots=True)
class Null:
    """The distribution of a measure under shuffled probes."""

    mean: float | None
    low: float | None
    """2.5 % quantile."""
    high: float | None
    """97.5 % quantile."""
    n: int
    """Shuffles."""
    reason: str | None = None
    """Why there is none."""


def permutations(probes: int, shuffles: int, seed: int) -> Int[np.ndarray, "shuffles probes"]:
    """Permutations of the probes, the same for the same seed.

    Raises:
        ValueError: `shuffles` is not positive.
    """
    if shuffles < 1:
        raise ValueError(f"shuffles = {shuffles} gives no null distribution: use at least 1, better 200")
    return np.random.default_rng(seed).permuted(np.tile(np.arange(probes), (shuffles, 1)), axis=1)


def shuffled_products(
    fixed: Float[np.ndarray, "fixed probes probes"],
    shuffled: Float[np.ndarray, "probes probes"],
    orders: Int[np.ndarray, "shuffles probes"],
) -> Float[np.ndarray, "fixed shuffles"]:
    """Inner products of symmetric matrices with one whose rows and columns are shuffled alike.

    out[f, s] = sum_ij fixed[f, i, j] shuffled[p_s(i), p_s(j)]: linear CKA for `unit_gram`, RSA for `unit_ranks`
    (ranks move with their probes, nothing is ranked again). The upper triangle is read only.

    Args:
        fixed: symmetric matrices, shape (fixed, probes, probes).
        shuffled: one symmetric matrix.
        orders: one permutation of the probes a row.

    Returns:
        One value per fixed matrix and shuffle.
    """
    rows, columns = np.triu_indices(shuffled.shape[0])
    weights = fixed[:, rows, columns] * np.where(rows == columns, 1.0, 2.0)
    flat = np.ascontiguousarray(shuffled).ravel()
    block = max(1, _BLOCK // len(rows))
    out = np.empty((len(fixed), len(orders)))
    for start in range(0, len(orders), block):
        order = orders[start : start + block]
        index = order[:, rows] * shuffled.shape[0] + order[:, columns]
        # einsum, not a product of BLAS: the gather bounds the speed, and threads that wait for each other cost more
        # than they bring when the machine has other work.
        out[:, start : start + block] = np.einsum("fp,sp->fs", weights, flat[index])
    return out


def shuffled_distances(
    fixed: Float[np.ndarray, "probes r_a"],
    shuffled: Float[np.ndarray, "probes r_b"],
    orders: Int[np.ndarray, "shuffles probes"],
) -> Float[np.ndarray, " shuffles"]:
    """Procrustes distances of two unit factors with the probes of the second shuffled; one decomposition a shuffle."""
    return distance_of_product(fixed.T @ shuffled[orders])


def summarise(values: NDArray[np.float64]) -> Null:
    """Mean and 95 % range of a measure's values under shuffling."""
    if not np.isfinite(values).all():
        return Null(None, None, None, len(values), "a representation is constant or not finite")
    low, high = np.quantile(values, (0.025, 0.975))
    return Null(float(values.mean()), float(low), float(high), len(values))
