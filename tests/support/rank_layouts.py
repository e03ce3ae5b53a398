"""Tensors of random shapes, held by ranks in random ways, and predicted as one process predicts the whole."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import spread
from leapverify.core import weights
from leapverify.core.ranks import ranks_of_world
from leapverify.core.shards import Shards, local
from leapverify.errors import Declined
from leapverify.predict import Predictor

MESHES: dict[int, list[tuple[int, ...]]] = {2: [(2,)], 3: [(3,)], 4: [(4,), (2, 2), (2, 2)]}
"""Of so many ranks, tried in turn."""
LENGTHS = range(10)


def _kinds(chance: random.Random) -> dict[str, tuple[tuple[int, ...], str]]:
    """Names and shapes of a few tensors; one of them is never empty."""
    width, heads = chance.choice([2, 4, 6, 8]), chance.randint(1, 30)
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (chance.choice(LENGTHS), width),
        "h.0.ln.weight": (width,),
        "h.0.attn.c_attn.weight": (width, 3 * width),
        "h.0.attn.c_attn.bias": (3 * width,),
        "h.0.mlp.c_fc.weight": (width, heads),
        "h.0.mlp.c_proj.weight": (heads, width),
        "odd.weight": tuple(chance.randint(1, 5) for _ in range(3)),
        "single.weight": (1, chance.randint(1, 5)),
        "scale": (),
        "other.weight": (chance.choice(LENGTHS), chance.choice(LENGTHS)),
    }
    kept = ["h.0.mlp.c_fc.weight", *chance.sample(list(shapes), chance.randint(2, len(shapes)))]
    return {name: (shape, "") for name, shape in shapes.items() if name in kept}


def _held(kinds: Any, mesh: Any, chance: random.Random) -> list[Tensor]:
    """Each tensor plain, copied, or cut along any of its dimensions, on a mesh of two dimensions by either or both."""
    found: list[Tensor] = []
    for shape, _ in kinds.values():
        cuts = [chance.choice([Replicate(), *map(Shard, range(len(shape))), *map(Shard, range(len(shape)))])
                for _ in range(mesh.ndim)]  # fmt: skip
        whole = torch.zeros(shape)
        found.append(whole if chance.random() < 0.1 else distribute_tensor(whole, mesh, cuts))
    return found


def tried_on(seed: int, methods: dict[str, Predictor], shape: tuple[int, ...]) -> dict[str, Any]:
    """The largest error of each predictor on this rank's parts; a text where it declines otherwise."""
    chance = random.Random(seed)
    kinds = _kinds(chance)
    held = _held(kinds, init_device_mesh("cpu", shape), chance)
    if tied := chance.random() < 0.3:  # one tensor under two names, as in a list of all layers' weights
        name = next(iter(kinds))
        kinds, held = {**kinds, "lm_head.weight": kinds[name]}, [*held, held[0]]
    shards = Shards.of(held, ranks_of_world())

    def cut(tensors: Sequence[Tensor]) -> list[Tensor]:
        places = zip(tensors, shards.starts, [local(each).shape for each in held], strict=True)
        return [each[tuple(slice(a, a + n) for a, n in zip(at, part, strict=True))] for each, at, part in places]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spread, "KINDS", kinds)
        whole, parts = spread.trajectory(), spread.trajectory(cut, shards)
    errors = {name: _error(method, whole, parts, cut, shards) for name, method in methods.items()}
    empty = any(not local(each).numel() and each.numel() for each in held)
    copied = any(isinstance(each, Tensor) and getattr(each, "placements", ())[:1] == (Replicate(),) for each in held)
    return {"errors": errors, "empty": empty, "tied": tied, "copied": copied, "parts": shards.parts}


def _error(method: Predictor, whole: Any, parts: Any, cut: Any, shards: Shards) -> float | str:
    answers: list[Any] = []
    for history in (whole, parts):
        try:
            answers.append(method.predict(history, 50))
        except Declined as declined:
            answers.append(declined.reason)
    if isinstance(answers[0], str) or isinstance(answers[1], str):
        return 0.0 if answers[0] == answers[1] else f"one process: {answers[0]}; parts: {answers[1]}"
    wanted, got = cut(answers[0]), answers[1]
    if method.name == "random":  # of its own signs; its length is what counts
        steps = [weights.distance(each, parts[-1].tensors, shards) for each in (got, wanted)]
        return abs(steps[0] - steps[1]) / max(steps[1], 1e-12)
    # float32 rounds by the size of the numbers, and of the steps that lead to them.
    now = parts[-1].tensors
    size = [torch.maximum(b.abs(), (b - c).abs()).clamp(min=1.0) for b, c in zip(wanted, now, strict=True)]
    triples = zip(got, wanted, size, strict=True)
    return max((float(((a - b).abs() / c).max()) for a, b, c in triples if a.numel()), default=0.0)
