"""Similarity of two fingerprints: the recognizer's measure of how little a model's representation has moved."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Kind = Literal["concatenated", "per-probe", "centred"]
Matrix = NDArray[np.float64]


def similarity(a: Float[Any, "n d"], b: Float[Any, "n d"], kind: Kind = "concatenated") -> float:
    """Cosine similarity s_t of two fingerprints, between -1 and 1.

    `concatenated`: sum_i a_i . b_i / (|a| |b|), the fingerprints as one vector each (eq. 1);
    `per-probe`: the mean over probes of cos(a_i, b_i);
    `centred`: as `concatenated`, after the mean over the 2n rows of both has been taken from every row: raw
    cosines lie near 1 because all hidden states share a large common mean.

    Args:
        a: activations of one checkpoint, (n probes, d), array or tensor on any device.
        b: activations of the other, in the same space.
        kind: which of the three.

    Returns:
        The similarity, accumulated in float64; NaN where a value is NaN or infinite, or a vector to be compared
        is zero (it has no direction).

    Raises:
        ValueError: the shapes differ or are not (n, d), or the kind is unknown.

    Source: arXiv 2602.19580, eq. 1; `per-probe` is what its published code computes.

    Example:
        >>> similarity([[3.0, 4.0], [0.0, 1.0]], [[4.0, 3.0], [0.0, 1.0]], kind="per-probe")
        0.98
    """
    x, y = _matrix(a), _matrix(b)
    if x.shape != y.shape:
        raise ValueError(f"fingerprints of shapes {x.shape} and {y.shape} differ: compare the same probes and layer")
    if kind not in get_args(Kind):
        raise ValueError(f"similarity kind {kind!r} is unknown: use one of {', '.join(get_args(Kind))}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan")
    if kind == "per-probe":
        return float(np.mean(_cosines(x, y)))
    if kind == "centred":
        common = (x.mean(axis=0) + y.mean(axis=0)) / 2
        x, y = x - common, y - common
    return float(_cosines(x.reshape(1, -1), y.reshape(1, -1))[0])


def _matrix(values: Any) -> Matrix:
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"a fingerprint of shape {matrix.shape} is not (probes, d): give one row per probe")
    return matrix


def _cosines(x: Matrix, y: Matrix) -> NDArray[np.float64]:
    """Row-wise cosines; NaN for a row that is zero in x or y."""
    x, y = _scaled(x), _scaled(y)
    dots = np.einsum("nd,nd->n", x, y)
    norms = np.sqrt(np.einsum("nd,nd->n", x, x) * np.einsum("nd,nd->n", y, y))
    with np.errstate(invalid="ignore"):
        return np.clip(dots / norms, -1.0, 1.0)


def _scaled(x: Matrix) -> Matrix:
    """Rows divided by their largest magnitude, so that no square overflows or vanishes."""
    with np.errstate(invalid="ignore"):
        return x / np.abs(x).max(axis=1, keepdims=True)
