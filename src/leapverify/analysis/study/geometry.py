"""Similarity of two representations of the same probes, by measures that a rotation of either space does not change.

`linear_cka`, `rsa` and `procrustes_distance` take two matrices of any unit with one row per probe; their widths may
differ. They raise ValueError where the two do not hold the same number of probes, or fewer than three, and are `nan`
where a representation does not vary over the probes, or is not finite. Each is an inner product of two objects that
are made once per fingerprint (`unit_gram`, `unit_ranks`, `unit_factor`): comparing many seeds, or one pair under many
shuffles of the probes, repeats the product only.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.stats import rankdata

_CONSTANT = 1e-12
"""Spread over the probes, relative to the norm, below which a representation counts as constant."""


def linear_cka(a: Float[np.ndarray, "probes d_a"], b: Float[np.ndarray, "probes d_b"]) -> float:
    """Linear centred kernel alignment: 1 for representations equal up to rotation, scale and shift.

    CKA = <K, L> / (norm(K) norm(L)),  K = H a a^T H,  L = H b b^T H,  H = I - 1/n.

    In [0, 1]. With more dimensions than probes it is well above 0 even for unrelated representations: read it against
    its null (`leapverify.analysis.study.null`).

    >>> a = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 3.0], [4.0, 1.0]])
    >>> round(linear_cka(a, 5.0 * a[:, ::-1] + 1.0), 6)  # turned, scaled and shifted
    1.0

    Source: Kornblith et al. 2019, equation 1 with a linear kernel (the biased estimator).
    """
    check_same_probes(a, b)
    return float(np.vdot(unit_gram(a), unit_gram(b)))


def rsa(a: Float[np.ndarray, "probes d_a"], b: Float[np.ndarray, "probes d_b"]) -> float:
    """Representational similarity: the Spearman correlation of the two sets of distances between probes.

    rho = corr(rank(D_a), rank(D_b)),  D_ij = norm(x_i - x_j), i < j. Euclidean distance, because the customary
    1 - Pearson changes when the space is rotated. In [-1, 1].

    Source: Kriegeskorte et al. 2008.
    """
    check_same_probes(a, b)
    return float(np.vdot(unit_ranks(a), unit_ranks(b)))


def procrustes_distance(a: Float[np.ndarray, "probes d_a"], b: Float[np.ndarray, "probes d_b"]) -> float:
    """Orthogonal Procrustes distance of the centred representations, each scaled to norm 1.

    d = min over orthogonal Q of norm(a - b Q) = sqrt(2 - 2 nuclear_norm(a^T b)): a metric, the narrower one padded with
    zeros. In [0, sqrt(2)]; 0 for representations equal up to rotation, scale and shift (to 1e-7: the square root of
    rounding).

    Source: Schönemann 1966; as a metric on representations Williams et al. 2021.
    """
    check_same_probes(a, b)
    return float(distance_of_product(unit_factor(a).T @ unit_factor(b)))


def check_same_probes(a: NDArray[np.floating], b: NDArray[np.floating]) -> None:
    """Refuse two representations that cannot be of the same probes.

    Raises:
        ValueError: not two matrices with the same number of rows, at least three.
    """
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise ValueError(
            f"representations of shape {a.shape} and {b.shape} cannot be compared: give one row per probe, same probes"
        )
    if len(a) < 3:
        raise ValueError(f"{len(a)} probes are too few to compare representations: use at least 3")


def unit_gram(x: Float[np.ndarray, "probes d"]) -> Float[np.ndarray, "probes probes"]:
    """The centred Gram matrix scaled to norm 1; all `nan` for a constant representation."""
    spread = _centred(x)
    gram = spread @ spread.T
    return gram / np.linalg.norm(gram)


def unit_ranks(x: Float[np.ndarray, "probes d"]) -> Float[np.ndarray, "probes probes"]:
    """Centred ranks of the distances between probes, as a symmetric matrix with norm 1 and a diagonal of zeros."""
    spread = _centred(x)
    if np.isnan(spread).any():
        return np.full((len(x), len(x)), np.nan)
    gram = spread @ spread.T
    square = np.diag(gram)
    upper = np.triu_indices(len(x), 1)
    ranks = rankdata((square[:, None] + square[None, :] - 2 * gram)[upper])
    ranks -= ranks.mean()
    norm = np.linalg.norm(ranks) * np.sqrt(2.0)
    matrix = np.zeros_like(gram)
    matrix[upper] = ranks / norm if norm > 0 else np.nan
    return matrix + matrix.T


def unit_factor(x: Float[np.ndarray, "probes d"]) -> Float[np.ndarray, "probes r"]:
    """The centred representation with norm 1, rotated into at most as many dimensions as there are probes.

    A wide representation keeps its Gram matrix, which is all that the Procrustes distance sees of it: a width of 3584
    costs no more than one of 100.
    """
    spread = _centred(x)
    if spread.shape[1] > spread.shape[0] and not np.isnan(spread).any():
        spread = np.asarray(np.linalg.qr(spread.T, mode="r")).T
    return spread / np.linalg.norm(spread)


def distance_of_product(product: Float[np.ndarray, "*batch r_a r_b"]) -> Float[np.ndarray, "*batch"]:
    """Procrustes distances from the products a^T b of unit factors: sqrt(2 - 2 nuclear_norm); `nan` stays `nan`."""
    known = np.isfinite(product).all(axis=(-2, -1))
    singular = np.linalg.svd(np.where(known[..., None, None], product, 0.0), compute_uv=False)
    return np.where(known, np.sqrt(np.maximum(2.0 - 2.0 * singular.sum(axis=-1), 0.0)), np.nan)


def _centred(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each dimension minus its mean over the probes, float64; all `nan` where nothing but rounding is left."""
    wide = np.asarray(x, dtype=np.float64)
    if not np.isfinite(wide).all():
        return np.full_like(wide, np.nan)
    largest = np.abs(wide).max()
    if largest == 0:
        return np.full_like(wide, np.nan)
    wide = wide / largest  # squares of squares follow: very large or small activations must not overflow
    spread = wide - wide.mean(axis=0)
    constant = np.linalg.norm(spread) <= _CONSTANT * np.linalg.norm(wide)
    return np.full_like(spread, np.nan) if constant else spread
