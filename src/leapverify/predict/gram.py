"""Gram matrices of differences of snapshots, and the combinations of snapshots that small systems give.

With w_1 .. w_n the snapshots, oldest first, m = n - 1 and d_i = w_{i+1} - w_i, the matrix G_ij = <d_i, d_j> of a tensor
is all that `rre`, `anderson`, `dmd-r`, `rank1` and `subspace` have to know of the weights; what they predict is a
combination of snapshots. So each snapshot is read once for G and once for the prediction, nothing larger than m x m
stays, and predictors that look at the same snapshots share one G. Of tensors that ranks hold in parts G is the sum of
the parts' own, and each rank combines what it holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float64
from torch import Tensor

from leapverify.core.weights import Tensors, block_size, blocks
from leapverify.errors import Declined
from leapverify.predict.blockwise import Kernel, Workspace, apply
from leapverify.predict.predictor import Request

WINDOW = 16
"""Snapshots that are read at most: m = 15 differences, Scieur's window."""
RANK_TOLERANCE = 1e-12
"""Eigenvalues of G below this share of the largest are rounding: singular values below 1e-6 of the largest, where the
differences of float32 snapshots are at best good to 2^-24."""

Array = npt.NDArray[np.float64]


def grams(request: Request) -> Float64[np.ndarray, "P m m"]:
    """G of each of the P tensors, oldest difference first, products and sums in float64; taken once per push.

    Raises:
        Declined: it is not finite.
    """
    key = "gram of differences", len(request.snapshots), request.device
    matrices = request.history.derived(key, lambda: _grams(request))
    if not np.isfinite(matrices).all():
        steps = [each.step for each in request.snapshots]
        raise Declined(f"the snapshots of steps {steps[-1]} to {steps[0]} are not finite, nothing can be solved for")
    return matrices


def eigen(matrix: Float64[np.ndarray, "m m"]) -> tuple[Array, Array]:
    """Eigenvalues of a Gram matrix above rounding, the largest first, and their eigenvectors as columns.

    Args:
        matrix: symmetric; all zero gives none.
    """
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = int(np.sum(values > RANK_TOLERANCE * values[0])) if values[0] > 0 else 0
    return values[:kept], vectors[:, :kept]


def combine_each(out: Tensors, points: Sequence[Tensors], factors: Sequence[Sequence[float]]) -> None:
    """out = p_0 + sum_j c_j (p_j - p_0), each tensor with its own factors.

    Args:
        out: tensors that are written.
        points: p_0, p_1, ...; what has the factor 0 is not read.
        factors: c_1, c_2, ... of each tensor.
    """
    workspace = Workspace(out)
    for target, row, first, *others in zip(out, factors, *points, strict=True):
        used = [(factor, other) for factor, other in zip(row, others, strict=True) if factor]
        apply(_kernel([factor for factor, _ in used]), target, (first, *(other for _, other in used)), workspace)


def _kernel(factors: Sequence[float]) -> Kernel:
    """The displacement is summed up by itself and added once: its terms round to its own size, not the weights'."""

    def kernel(result: Tensor, pieces: Sequence[Tensor], scratch: Workspace) -> None:
        first, *others = pieces
        if not others:
            result.copy_(first)
            return
        torch.sub(others[0], first, out=result).mul_(factors[0])
        for piece, factor in zip(others[1:], factors[1:], strict=True):
            difference = torch.sub(piece, first, out=scratch.like("difference", first))
            result.add_(difference, alpha=factor)
        result.add_(first)

    return kernel


@torch.no_grad()
def _grams(request: Request) -> Array:
    points = [each.tensors for each in reversed(request.snapshots)]
    block = block_size(request.device)
    # Long rows on a CPU, where starting an operation costs more than leaving the cache; elsewhere little memory.
    limit = max(1, (4 * block if request.device.type == "cpu" else block // 2) // len(points))
    width = min(limit, max(each.numel() for each in request.out))
    rows = torch.empty(len(points) - 1, width, dtype=torch.float64, device=request.device)
    pair = torch.empty(2, width, dtype=torch.float64, device=request.device)
    totals = []
    for tensors in zip(*points, strict=True):
        total = rows.new_zeros(len(rows), len(rows))
        for index in blocks(tensors[0].shape, limit):
            d = _differences([each[index] for each in tensors], rows, pair)
            total.addmm_(d, d.T)
        totals.append(total)
    return request.over_ranks(f"Gram matrices of {len(points)} snapshots", torch.stack(totals)).cpu().numpy()


def _differences(pieces: Sequence[Tensor], rows: Tensor, pair: Tensor) -> Tensor:
    """The differences of consecutive pieces as rows, exact in float64; every piece is read once."""
    shape, elements = pieces[0].shape, pieces[0].numel()
    before, after = (each[:elements].view(shape) for each in pair)
    _load(before, pieces[0])
    for row, piece in zip(rows, pieces[1:], strict=True):
        _load(after, piece)
        torch.sub(after, before, out=row[:elements].view(shape))
        before, after = after, before
    return rows[:, :elements]


def _load(row: Tensor, piece: Tensor) -> None:
    # Out of host memory the host does not wait, and the narrower type travels: see `Workspace.load`.
    row.copy_(piece, non_blocking=piece.device.type == "cpu")
