"""Sums over weights that ranks hold in parts: those of the whole, with the same bits on every rank."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from leapverify.core import weights
from leapverify.core.ranks import ranks_of_world
from leapverify.core.shards import Shards, local
from leapverify.trajectory.history import History
from processes import run_ranks
from spread import KINDS, cutting


@pytest.mark.failure(8, 10, 11)
@pytest.mark.parametrize("size", [2, 3])
def test_sums_are_those_of_the_whole(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    a, b = ([torch.randn(shape, generator=generator) for shape, _ in KINDS.values()] for _ in range(2))

    def work() -> Any:
        cut, shards, held = cutting(size)
        x, y = cut(a), cut(b)
        found = weights.dot(x, y, shards), weights.norm(x, shards), weights.distance(x, y, shards)
        fine = weights.all_finite(x, shards)
        if shards.ranks.rank == size - 1:
            x[0] = torch.full_like(x[0], math.nan)
        messages = []
        for call in (lambda: History(held, 2), lambda: History([local(each) for each in held], 2).push(0, held)):
            with pytest.raises(ValueError, match="DTensors were given: pass their local parts") as caught:
                call()
            messages.append(str(caught.value))
        return found, fine, weights.all_finite(x, shards), math.isnan(weights.norm(x, shards)), messages

    results = run_ranks(size, work)
    assert all(each == results[0] for each in results)
    found, fine, spoilt, not_a_number, _ = results[0]
    for got, wanted in zip(found, (weights.dot(a, b), weights.norm(a), weights.distance(a, b)), strict=True):
        assert math.isclose(got, wanted, rel_tol=1e-12)
    assert (fine, spoilt, not_a_number) == (True, False, True)


@pytest.mark.failure(10)
def test_whole_weights_that_differ_between_ranks_give_rank_0s_sums_everywhere() -> None:
    """What is decided from them is then the same on all ranks, whatever their last bits."""

    def work() -> Any:
        ranks = ranks_of_world()
        own = [torch.full((3,), 1.0 + ranks.rank)]
        return weights.norm(own, Shards.of(own, ranks))

    assert run_ranks(2, work) == [math.sqrt(3.0)] * 2


@pytest.mark.failure(11)
def test_parts_of_a_mesh_of_two_dimensions_lie_where_they_are_said_to() -> None:
    """Tensor parallel and `fully_shard` on the same dimension, uneven along both."""

    def made() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 5), nn.LayerNorm(5))

    whole = [each.detach() for each in made().parameters()]

    def work() -> Any:
        mesh, model = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp")), made()
        parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
        parameters = list(fully_shard(model, mesh=mesh["dp"]).parameters())
        shards = Shards.of(parameters, ranks_of_world())
        held = [local(each) for each in parameters]
        there = [
            torch.equal(full[tuple(slice(at, at + length) for at, length in zip(start, own.shape, strict=True))], own)
            for full, start, own in zip(whole, shards.starts, held, strict=True)
        ]
        return all(there), shards.elements, weights.norm(held, shards)

    results = run_ranks(4, work)
    assert all(each == results[0] for each in results)
    there, elements, size = results[0]
    assert there
    assert elements == tuple(each.numel() for each in whole)
    assert math.isclose(size, weights.norm(whole), rel_tol=1e-12)
