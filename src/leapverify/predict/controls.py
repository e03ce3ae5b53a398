"""Controls: `hold` does nothing, `random` goes as far as `linear` in a random direction."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from leapverify.core.pinned import copy_ahead
from leapverify.predict.blockwise import Workspace, apply, reduce
from leapverify.predict.formula import Formula
from leapverify.predict.predictor import Needs, Request

SIGN_BIT = -(2**31)
"""The sign of a float32, as the int32 that has no other bit."""


def hold() -> Formula:
    """theta_t.

    Example:
        >>> from leapverify import History
        >>> history = History([torch.zeros(2)], length=1)
        >>> history.push(10, [torch.tensor([1.0, 2.0])])
        >>> hold().predict(history, horizon=100)
        (tensor([1., 2.]),)
    """
    return Formula("hold", Needs(1), lambda request: copy_ahead(request.out, request.now))


def random_direction(seed: int = 0) -> Formula:
    """theta_t + r, with r = +-c in each element, independent fair signs, c = norm(s d1) / sqrt(elements) per tensor.

    r has exactly the norm of `linear`'s step, whatever the signs. In the many dimensions of a tensor its direction is
    as good as a Gaussian one, and it costs one random bit per element. Where ranks hold parts of a tensor, c is that of
    the whole tensor. The signs are then a part's own: the same on all ranks that hold it, other ones than one process
    would draw.

    Args:
        seed: of the signs; they depend on it, the newest step, the horizon and the layout alone.

    Example:
        >>> from leapverify import History
        >>> history = History([torch.zeros(1)], length=2)
        >>> for step, weight in ((0, 0.0), (10, 3.0)):
        ...     history.push(step, [torch.tensor([weight])])
        >>> float(random_direction().predict(history, horizon=10)[0]) in (0.0, 6.0)
        True
    """
    return Formula("random", Needs(2), lambda request: _write(request, seed), _squared_steps)


def _write(request: Request, seed: int) -> None:
    squares, workspace, horizon = _squared_steps(request), Workspace(request.out), request.horizon
    generator, about = torch.Generator(workspace.device), (seed, request.snapshots[0].step, horizon)
    generator.manual_seed(_mixed(*about))
    parts = request.shards if request.shards is not None and request.shards.parts else None
    for position, (target, now, (square,)) in enumerate(zip(request.out, request.now, squares, strict=True)):
        radius = horizon / request.lags[1] * math.sqrt(square / max(request.elements[position], 1))
        if parts is not None:
            generator.manual_seed(_mixed(*about, position, *parts.starts[position]))

        def kernel(result: Tensor, pieces: Sequence[Tensor], scratch: Workspace, radius: float = radius) -> None:
            torch.add(pieces[0], _signed(radius, result, generator, scratch), out=result)

        apply(kernel, target, (now,), workspace)


def _squared_steps(request: Request) -> list[list[float]]:
    """|d1|^2 of each tensor."""
    points = tuple(each.tensors for each in request.snapshots)
    what = "squares of d1"
    return request.history.derived((what, request.device), lambda: reduce(what, _squared_step, 1, points, request))


def _squared_step(pieces: Sequence[Tensor], scratch: Workspace) -> Tensor:
    step = torch.sub(*pieces, out=scratch.like("difference", pieces[0])).view(-1)
    return torch.dot(step, step)[None]


def _mixed(*numbers: int) -> int:
    """63 bits that differ for different arguments."""
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _signed(radius: float, piece: Tensor, generator: torch.Generator, scratch: Workspace) -> Tensor:
    """+-radius in the shape of a piece: a random bit for the sign, radius for the other bits of each float32."""
    elements = piece.numel()
    draws = torch.empty(-(-elements // 64), dtype=torch.int64, device=scratch.device)
    words = draws.random_(SIGN_BIT * 2**32, None, generator=generator).view(torch.int32)
    bits = scratch.flat("signs", 32 * len(words)).view(torch.int32)
    shifts = torch.arange(32, dtype=torch.int32, device=scratch.device)[:, None]
    torch.bitwise_left_shift(words[None, :], shifts, out=bits.view(32, -1))
    (magnitude,) = struct.unpack("<i", struct.pack("<f", radius))
    return bits.bitwise_and_(SIGN_BIT).bitwise_or_(magnitude).view(torch.float32)[:elements].view(piece.shape)
