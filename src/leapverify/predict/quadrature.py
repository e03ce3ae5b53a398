"""Few nodes for a sum of many: Gauss quadrature of a discrete measure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64

TOLERANCE = 2.0**-22
"""Relative error of a compressed sum: that of the four float32 operations which each term takes anyway."""
MOST_NODES = 16
"""Beyond these the given nodes are taken: a long sum in any case, at betas that nobody trains with."""

Array = npt.NDArray[np.float64]


def compress(
    nodes: Float64[np.ndarray, " K"], weights: Float64[np.ndarray, " K"], eps: float, tolerance: float = TOLERANCE
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Nodes b and weights z, as few as will do, with sum_j z_j / (b_j u + eps) = sum_i w_i / (a_i u + eps).

    Both sides are integrals of 1/(a u + eps) over a; the n-node Gauss rule of the measure (w_i at a_i) converges
    geometrically in n, the faster the closer together the a_i lie. n grows until the relative error on a
    logarithmic grid of u from 0 to infinity is below the tolerance.

    Args:
        nodes: a, positive.
        weights: w.
        eps: not negative.
        tolerance: relative error for the worst u >= 0.

    Returns:
        b and z; the given ones (without zero weights) where weights are negative or no few nodes suffice.
    """
    nodes, weights = nodes[weights != 0], weights[weights != 0]
    if not len(nodes) or (weights < 0).any():
        return nodes, weights
    exact = _on_grid(nodes, weights, nodes, eps)
    for count in range(1, min(len(nodes), MOST_NODES + 1)):
        few, shares = gauss(nodes, weights, count)
        if np.max(np.abs(_on_grid(few, shares, nodes, eps) / exact - 1)) <= tolerance:
            return few, shares
    return nodes, weights


def gauss(
    nodes: Float64[np.ndarray, " K"], weights: Float64[np.ndarray, " K"], count: int
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """The Gauss rule of a positive discrete measure: exact for polynomials of degree 2 count - 1.

    Lanczos on diag(nodes) from the square roots of the weights gives the Jacobi matrix; its eigenvalues are the
    nodes, the squares of its eigenvectors' first entries the shares of the total weight (Golub and Welsch 1969).

    Args:
        nodes: a.
        weights: w, positive.
        count: n, at most the number of nodes.

    Returns:
        Nodes and weights of the rule; fewer than `count` where the measure has fewer distinct nodes.
    """
    total = weights.sum()
    centre = (weights @ nodes) / total
    spread = max(float(np.max(np.abs(nodes - centre))), np.finfo(float).tiny)
    position = (nodes - centre) / spread  # scaled, so that close nodes are told apart
    basis: list[Array] = [np.sqrt(weights / total)]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for _ in range(count):
        image = position * basis[-1]
        diagonal.append(float(basis[-1] @ image))
        for _ in range(2):  # twice is enough to keep the basis orthogonal to rounding
            for vector in basis:
                image = image - (vector @ image) * vector
        length = float(np.linalg.norm(image))
        if length < 1e-14:
            break
        off_diagonal.append(length)
        basis.append(image / length)
    off_diagonal = off_diagonal[: len(diagonal) - 1]
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1))
    return centre + spread * values, total * vectors[0] ** 2


def _on_grid(nodes: Array, weights: Array, scale: Array, eps: float) -> Array:
    """The sum at u = 0, at u on a grid around eps / a, and its limit times u for u to infinity."""
    limit = (weights / nodes).sum()
    if eps == 0:
        return np.array([limit])
    u = np.logspace(-4, 4, 65) * eps / np.median(scale)
    inner = (weights / (u[:, None] * nodes + eps)).sum(axis=1)
    return np.concatenate([[weights.sum() / eps], inner, [limit]])
