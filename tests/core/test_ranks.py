"""Ranks meet, decide once and fail together: nobody waits for one that has left."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from leapverify.core.ranks import Ranks, ranks_of_world
from leapverify.core.shards import Shards, local, reshard
from leapverify.errors import RanksDivergedError
from processes import run_ranks


def test_one_process_meets_nobody() -> None:
    alone = Ranks()
    assert alone.alone
    assert alone.all_gather("anywhere", 3) == [3]
    assert alone.broadcast("anywhere", 3) == 3
    assert torch.equal(alone.sum("anywhere", torch.ones(2)), torch.ones(2, dtype=torch.float64))
    alone.fail("whatever")
    assert alone.all_gather("anywhere", 4) == [4]


@pytest.mark.parametrize("size", [2, 3])
def test_all_know_what_all_brought(size: int) -> None:
    def work() -> Any:
        ranks = ranks_of_world()
        total = ranks.sum("sum", torch.full((2, 2), 0.1 * (ranks.rank + 1)))
        return (
            ranks.all_gather("all", ranks.rank),
            ranks.broadcast("vote", f"of {ranks.rank}"),
            total.tolist(),
            ranks.shares,
        )

    found = run_ranks(size, work)
    expected = sum(float(torch.tensor(0.1 * (rank + 1)).double()) for rank in range(size))
    assert found == [(list(range(size)), "of 0", [[expected] * 2] * 2, size)] * size


def _said(call: Any) -> str:
    start = time.monotonic()
    with pytest.raises(RanksDivergedError) as caught:
        call()
    assert time.monotonic() - start < 30.0
    return str(caught.value)


@pytest.mark.failure(10)
def test_the_failure_of_one_is_told_to_all_at_their_next_meeting() -> None:
    def work() -> str:
        ranks = ranks_of_world()
        ranks.all_gather("before", 0)
        if ranks.rank == 1:
            ranks.fail("out of memory")
            return _said(lambda: ranks.all_gather("whatever", 0))
        return _said(lambda: ranks.all_gather("elsewhere", 0))

    assert run_ranks(3, work) == ["rank 1: out of memory"] * 3


@pytest.mark.failure(10)
def test_ranks_at_different_places_all_get_the_same_error() -> None:
    def work() -> str:
        ranks = ranks_of_world()
        return _said(lambda: ranks.all_gather("predict" if ranks.rank else "verify", 0))

    one, other = run_ranks(2, work)
    assert one == other
    assert "rank 0 at 'verify', rank 1 at 'predict'" in one


@pytest.mark.failure(10)
def test_a_rank_that_never_comes_is_waited_for_only_so_long() -> None:
    def work() -> str | None:
        ranks = ranks_of_world(patience_s=2.0)
        if ranks.rank == 1:
            time.sleep(6.0)
            return None
        return _said(lambda: ranks.all_gather("there", 0))

    told, _ = run_ranks(2, work)
    assert told is not None
    assert "waited in vain for the others at 'there'" in told


def test_a_value_that_differs_is_named() -> None:
    def work() -> str:
        ranks = ranks_of_world()
        ranks.assert_same("alike", 7, "the number")
        return _said(lambda: ranks.assert_same("interval", 50 + ranks.rank, "interval"))

    assert set(run_ranks(2, work)) == {
        "interval differs between ranks (50 on rank 0, 51 on rank 1): give every rank the same"
    }


def test_ranks_of_one_tensor_parallel_group_run_the_same_share() -> None:
    def work() -> Any:
        rank = dist.get_rank()
        ranks = ranks_of_world(data_group=[rank // 2 * 2, rank // 2 * 2 + 1])
        return ranks.share, ranks.shares, ranks.gather_shares("losses", 10 * rank)

    assert run_ranks(4, work) == [(0, 2, [0, 20]), (0, 2, [0, 20]), (1, 2, [0, 20]), (1, 2, [0, 20])]


@pytest.mark.failure(11)
@pytest.mark.parametrize("size", [2, 3])
def test_sums_over_shards_are_those_of_the_whole(size: int) -> None:
    """Uneven and empty shards, copies along a mesh dimension, and a plain tensor, each counted once."""
    tensors = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in ((5, 3), (1, 2), (), (4,))]

    def work() -> Any:
        mesh = init_device_mesh("cpu", (size,))
        ranks = ranks_of_world()
        spread = [
            distribute_tensor(tensors[0], mesh, [Shard(0)]),
            distribute_tensor(tensors[1], mesh, [Shard(0)]),
            distribute_tensor(tensors[2], mesh, [Replicate()]),
            tensors[3],
        ]
        shards = Shards.of(spread, ranks)
        squares = torch.stack([local(each).double().square().sum() for each in spread])
        return shards.sum("squares", squares).tolist(), shards.elements, shards.parts

    expected = [float(each.double().square().sum()) for each in tensors]
    for sums, elements, parts in run_ranks(size, work):
        assert all(math.isclose(one, other, rel_tol=1e-14) for one, other in zip(sums, expected, strict=True))
        assert elements == (15, 2, 1, 4)
        assert parts


@pytest.mark.failure(11)
def test_replicas_of_shards_count_once() -> None:
    whole = torch.arange(12.0).reshape(6, 2)

    def work() -> Any:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
        ranks = ranks_of_world()
        both = distribute_tensor(whole, mesh, [Replicate(), Shard(0)])
        inner = distribute_tensor(whole, mesh["shard"], [Shard(0)])
        shards = Shards.of([both, inner], ranks)
        return shards.sum("sum", torch.stack([local(both).sum(), local(inner).sum()])).tolist()

    assert run_ranks(4, work) == [[66.0, 66.0]] * 4


def test_gathered_parameters_are_given_back() -> None:
    def work() -> Any:
        torch.manual_seed(0)
        model = fully_shard(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)), mesh=init_device_mesh("cpu", (2,)))
        with torch.no_grad():
            model(torch.ones(1, 3))
        gathered = isinstance(next(model.parameters()), DTensor)
        reshard(model)
        before = next(model.parameters())
        with torch.no_grad():
            local(before).zero_()
            model(torch.ones(1, 3))
        reshard(model)
        return gathered, float(next(model.parameters()).detach().full_tensor().abs().sum())

    assert run_ranks(2, work) == [(False, 0.0)] * 2
