"""A trajectory of tensors of many shapes, and what each rank holds of it when they are spread over ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from context_fakes import with_context
from leapverify.core import weights
from leapverify.core.ranks import ranks_of_world
from leapverify.core.shards import Shards, local
from leapverify.trajectory.context import Layout
from leapverify.trajectory.history import GroupHyper, History, OptimizerState

KINDS: dict[str, tuple[tuple[int, ...], str]] = {
    "wte.weight": ((7, 6), "rows"),
    "h.0.ln.weight": ((6,), "rows"),
    "h.0.attn.c_attn.weight": ((6, 18), "columns"),
    "h.0.attn.c_attn.bias": ((18,), "rows"),
    "h.0.mlp.c_fc.weight": ((6, 24), "rows"),
    "h.0.mlp.c_proj.weight": ((24, 6), "columns"),
    "odd.weight": ((5, 2, 3), "rows"),
    "single.weight": ((1, 4), "rows"),
    "scale": ((), "copies"),
    "copied.weight": ((3, 3), "copies"),
    "plain.weight": ((4,), "plain"),
    "nothing.weight": ((0, 3), "rows"),
}
"""Name -> shape, and along what it is cut: parts are uneven and, on some ranks, empty."""
STEPS = tuple(range(25, 25 * 17, 25))
FINE = 3


@dataclass
class SpreadBowl:
    """L(w) = sum (w - optimum)^2 / 2 over all parts: a `Selection` and a `Gradients`."""

    optimum: Sequence[Tensor]
    shards: Shards | None = None

    def loss(self, point: Sequence[Tensor]) -> float:
        return weights.distance([each.detach() for each in point], self.optimum, self.shards) ** 2 / 2

    def gradient(self, point: Sequence[Tensor], draw: int) -> tuple[Tensor, Sequence[Tensor]]:
        slopes = [w.detach().float() - o for w, o in zip(point, self.optimum, strict=True)]
        return torch.tensor(self.loss(point)), slopes


def spread(tensors: Sequence[Tensor], size: int) -> list[Tensor]:
    """The tensors as parameters that are spread over all ranks."""
    mesh = init_device_mesh("cpu", (size,))
    cuts: dict[str, Any] = {"rows": Shard(0), "columns": Shard(1), "copies": Replicate()}
    return [
        each if how == "plain" else distribute_tensor(each, mesh, [cuts[how]])
        for each, (_, how) in zip(tensors, KINDS.values(), strict=True)
    ]


Cut = Callable[[Sequence[Tensor]], list[Tensor]]


def cutting(size: int) -> tuple[Cut, Shards, list[Tensor]]:
    """What takes this rank's parts of whole tensors, how they lie, and the spread tensors themselves."""
    whole = [torch.zeros(shape) for shape, _ in KINDS.values()]
    held = spread(whole, size)
    shards = Shards.of(held, ranks_of_world())
    shapes = [local(each).shape for each in held]

    def cut(tensors: Sequence[Tensor]) -> list[Tensor]:
        parts = []
        for each, starts, shape in zip(tensors, shards.starts, shapes, strict=True):
            parts.append(each[tuple(slice(a, a + n) for a, n in zip(starts, shape, strict=True))])
        return parts

    return cut, shards, held


def trajectory(cut: Cut = list, shards: Shards | None = None, spoilt: int | None = None) -> History:
    """A random walk with all that a predictor may ask for, of whole tensors or of one rank's parts.

    Args:
        cut: takes this rank's parts.
        shards: how they lie.
        spoilt: the rank whose newest part of the first tensor is not finite.
    """
    generator = torch.Generator().manual_seed(3)

    def draw(scale: float) -> list[Tensor]:
        return [torch.randn(shape, generator=generator) * scale for shape, _ in KINDS.values()]

    point = draw(1.0)
    start = cut(point)
    history, fine = History(start, 16), History(start, FINE)
    history.shards = fine.shards = shards
    bowl: Any = SpreadBowl(cut(draw(1.0)), shards)
    with_context(history, fine, start, bowl)
    history.layout = Layout(tuple(KINDS), "gpt2", 2, 2)
    drift = draw(0.02)
    for step in STEPS:
        for before in range(FINE - 1, -1, -1):
            held = cut(point)
            if spoilt is not None and step == STEPS[-1] and dist.get_rank() == spoilt:
                held[0] = torch.full_like(held[0], math.nan)
            fine.push(step - before, held)
            torch._foreach_add_(point, draw(0.01))
        history.push(step, fine[-1].tensors)
        torch._foreach_add_(point, drift)
    m = draw(1e-3)
    hyper = (GroupHyper(0.9, 0.999, 1e-8, 0.01),)
    v = [each.square() + 1e-7 for each in m]
    count = len(m)
    history.optimizer = OptimizerState(
        tuple(cut(m)), tuple(cut(v)), (STEPS[-1],) * count, (0,) * count, hyper, (lambda _: 1e-3,), STEPS[-1]
    )
    return history
