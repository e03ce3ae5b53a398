"""Controls: what a predictor scores that does nothing, or that goes as far as `linear` in a random direction."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leapverify.core.pinned import copy_ahead
from leapverify.core.weights import Tensors
from leapverify.predict.blockwise import Workspace, apply, reduce
from leapverify.predict.predictor import Needs, Request, require_request
from leapverify.trajectory.history import History

SIGN_BIT = -(2**31)
"""The sign of a float32, as the int32 that has no other bit."""


@dataclass(frozen=True)
class Hold:
    """theta_t."""

    name: str = "hold"
    needs: Needs = field(default=Needs(1))

    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        """See `Predictor.predict`."""
        request = require_request(self.needs, history, horizon, out)
        copy_ahead(request.out, request.now)
        return request.out


@dataclass(frozen=True)
class Random:
    """theta_t + r, with r = +-c in each element, independent fair signs, c = norm(s d1) / sqrt(elements) per tensor.

    Such an r has the norm of `linear`'s step exactly, whatever the signs; in the many dimensions of a tensor its
    direction is as good as a Gaussian one, at a random bit per element. Of a tensor that ranks hold in parts c is that
    of the whole and the signs are others than one process draws: a part's own, the same on all ranks that hold it.
    """

    name: str = "random"
    needs: Needs = field(default=Needs(2))
    seed: int = 0

    @torch.no_grad()
    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        """See `Predictor.predict`; the signs depend on the seed, the newest step, the horizon and the layout alone."""
        request = require_request(self.needs, history, horizon, out)
        squares = self._squares(history, request)
        workspace = Workspace(request.out)
        generator, about = torch.Generator(workspace.device), (self.seed, request.snapshots[0].step, horizon)
        generator.manual_seed(_mixed(*about))
        parts = request.shards if request.shards is not None and request.shards.parts else None
        for position, (target, now, (square,)) in enumerate(zip(request.out, request.now, squares, strict=True)):
            radius = horizon / request.lags[1] * math.sqrt(square / max(request.elements[position], 1))
            if parts is not None:
                generator.manual_seed(_mixed(*about, position, *parts.starts[position]))

            def kernel(result: Tensor, pieces: Sequence[Tensor], scratch: Workspace, radius: float = radius) -> None:
                torch.add(pieces[0], _signed(radius, result, generator, scratch), out=result)

            apply(kernel, target, (now,), workspace)
        return request.out

    @torch.no_grad()
    def prepare(self, history: History, out: Tensors) -> None:
        """See `Prepares.prepare`."""
        self._squares(history, require_request(self.needs, history, 1, out))

    def _squares(self, history: History, request: Request) -> list[list[float]]:
        """|d1|^2 of each tensor."""
        points = tuple(each.tensors for each in request.snapshots)
        what = "squares of d1"
        return history.derived((what, request.device), lambda: reduce(what, _squared_step, 1, points, request))


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


def _squared_step(pieces: Sequence[Tensor], scratch: Workspace) -> Tensor:
    """|d1|^2."""
    step = torch.sub(*pieces, out=scratch.like("difference", pieces[0])).view(-1)
    return torch.dot(step, step)[None]
