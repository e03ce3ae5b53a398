"""`subspace`: learns on sampled batches how far to go along the last displacements."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float64
from torch import Tensor

from leapverify.errors import Declined
from leapverify.predict.blockwise import Workspace, reduce
from leapverify.predict.combination import of_displacements
from leapverify.predict.formula import Formula
from leapverify.predict.gram import combine_each, eigen, grams
from leapverify.predict.predictor import Needs, Request

DISPLACEMENTS = 4
"""m."""
Array = npt.NDArray[np.float64]


def subspace(per_layer: bool = False) -> Formula:
    """`subspace`: theta_t + sum_i c_i d_i over the last m displacements, c by Newton's method; the same for every K.

    1. The gradient with respect to c at 0, g_i = <grad L, d_i>, and at theta_t - d_i for each i, all on one
       sampled batch: their differences are the columns of the Hessian H, secants over steps as long as the run's own.
    2. c minimises g'c + c'Hc / 2 with |sum_i c_i d_i| at most the length of the window's path, sum_i |d_i|. Where H is
       not positive definite it goes to that border.
    3. The gradient at this c on a second batch, taken back to 0 by H, halves the noise of g; then 2 again.

    Exact on a quadratic loss whose minimum over the span lies within the border: the secants are then the Hessian, and
    m + 2 gradients are all it takes. Secants on one batch leave its noise out of H; quasi-Newton steps would need as
    many gradients, and step lengths besides. With `per_layer` (`subspace-layers`) every tensor has its own c and
    border. The same gradients then serve: curvature between tensors is added to each one's own, as in a lumped mass
    matrix, exact where there is none.

    Source: our own; cf. Li et al., TPAMI 2022, who train within the principal components of early weights. No claim.
    Cost: m + 2 gradients (6; 4 from three snapshots), each 3 forward-token equivalents per token of its batch; each
    snapshot is read twice per gradient, once for G and once for the result. Losses of the batches do not decide between
    c and 0: that is left to the verifier.

    Args:
        per_layer: whether every tensor has its own coefficients and border.

    Example:
        >>> trust_region(np.array([-6.0, 0.0]), np.diag([2.0, 1.0]), radius=5.0)  # the minimum lies inside
        array([3., 0.])
    """

    def write(request: Request) -> None:
        _write(request, coefficients(request, per_layer))

    needs = Needs(3, upto=DISPLACEMENTS + 1, gradients=True, horizon=False)
    name = "subspace-layers" if per_layer else "subspace"
    return Formula(name, needs, write, lambda request: coefficients(request, per_layer))


def coefficients(request: Request, per_layer: bool = False) -> Float64[np.ndarray, "P m"]:
    """c of each tensor, oldest displacement first; learnt once per push. Candidates are written into `request.out`.

    Raises:
        Declined: a gradient is not finite.
    """
    key = ("subspace", per_layer, request.device)
    found: Array | None = request.history.derived(key, lambda: _learn(request, per_layer))
    if found is None:
        raise Declined("a gradient along the last displacements is not finite")
    return found


def _learn(request: Request, per_layer: bool) -> Array | None:
    def grouped(values: Array) -> Array:
        """Sums over the tensors that share coefficients."""
        return values if per_layer else values.sum(0, keepdims=True)

    gram = grouped(grams(request))
    zero = np.zeros((len(request.out), gram.shape[-1]))
    if not gram.any():
        return zero
    slopes = grouped(_slopes(request, zero, draw=0))
    probes = [grouped(_slopes(request, zero - unit, draw=0)) for unit in np.eye(gram.shape[-1])]
    hessian = np.stack([slopes - probe for probe in probes], axis=-1)
    if not np.isfinite(hessian).all():
        return None
    first = _minimisers(gram, slopes, hessian)
    again = grouped(_slopes(request, np.broadcast_to(first, zero.shape), draw=1))
    if not np.isfinite(again).all():
        return None
    at_zero = again - np.einsum("gij,gj->gi", _symmetric(hessian), first)
    return np.broadcast_to(_minimisers(gram, (slopes + at_zero) / 2, hessian), zero.shape)


def trust_region(
    slope: Float64[np.ndarray, " r"], hessian: Float64[np.ndarray, "r r"], radius: float
) -> Float64[np.ndarray, " r"]:
    """u that minimises g'u + u'Hu / 2 among |u| <= radius: u = -(H + mu I)^-1 g with the smallest mu >= 0 that will do.

    Args:
        slope: g.
        hessian: H, symmetric, of any signs.
        radius: positive.

    Returns:
        u; 0 where g is 0, whatever H.
    """
    values, vectors = np.linalg.eigh(hessian)
    g = vectors.T @ slope
    size = float(np.linalg.norm(g))
    if size == 0:
        return np.zeros_like(slope)

    def step(mu: float) -> Array:
        shifted = values + mu
        return np.divide(-g, shifted, out=np.zeros_like(g), where=shifted > 0)

    low = max(0.0, -float(values[0]))
    if values[0] > 0 and np.linalg.norm(step(0.0)) <= radius:
        return vectors @ step(0.0)
    high = low + size / radius  # |g| / (values + mu) <= radius from here on
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(step(middle)) > radius else (low, middle)
    return vectors @ step(high)


def _minimisers(gram: Array, slopes: Array, hessian: Array) -> Array:
    """c of each group, (groups, m)."""
    return np.stack([_minimiser(*each) for each in zip(gram, slopes, _symmetric(hessian), strict=True)])


def _minimiser(gram: Array, slope: Array, hessian: Array) -> Array:
    squares, vectors = eigen(gram)
    if not len(squares):
        return np.zeros_like(slope)
    basis = vectors / np.sqrt(squares)  # c = basis u moves the weights by |u|
    radius = float(np.sqrt(np.diag(gram)).sum())
    return basis @ trust_region(basis.T @ slope, basis.T @ hessian @ basis, radius)


def _symmetric(hessian: Array) -> Array:
    return (hessian + hessian.swapaxes(-1, -2)) / 2


def _slopes(request: Request, coefficients: Array, draw: int) -> Array:
    """<grad L, d_i> of each tensor at theta_t + sum_i c_i d_i, (P, m), oldest displacement first."""
    _write(request, coefficients)
    assert request.history.gradients is not None  # `require_request` has seen to it
    with torch.enable_grad():
        _, gradients = request.history.gradients.gradient(request.out, draw)
    points = [each.tensors for each in reversed(request.snapshots)]
    count = coefficients.shape[1]
    return np.array(reduce(f"slopes of draw {draw}", _along_differences, count, [gradients, *points], request))


def _along_differences(pieces: Sequence[Tensor], scratch: Workspace) -> Tensor:
    gradient, *points = pieces
    sums = []
    for before, after in itertools.pairwise(points):
        product = torch.sub(after, before, out=scratch.like("difference", gradient)).mul_(gradient)
        # Rounding of a narrower sum would differ between a whole and its parts; secants make it large.
        sums.append(product.sum(dtype=torch.float64))
    return torch.stack(sums)


def _write(request: Request, coefficients: Array) -> None:
    factors = [of_displacements(row[::-1].tolist()) for row in coefficients]
    combine_each(request.out, [each.tensors for each in request.snapshots], factors)
