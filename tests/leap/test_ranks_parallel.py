"""How a model is spread over ranks is found from the model, or given, and said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module

from leap_ranks import PLAN, Run, Small, Way, losses, way
from leapverify.core.shards import local
from leapverify.leap.api import LeapVerify
from leapverify.leap.parallel import inner, like, ranks_of
from processes import run_ranks


def test_who_runs_the_same_data_follows_from_the_model_or_is_given() -> None:
    def work() -> Any:
        found = {}
        for name in ("ddp", "fsdp", "hsdp", "tp", "fsdp+tp"):
            ranks = ranks_of(way(name, 4).wrap(Small()), None, 20.0)
            found[name] = (ranks.share, ranks.shares)
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        model = parallelize_module(Small(), mesh["tensor"], {name: kind() for name, kind in PLAN.items()})
        ranks = ranks_of(model, None, 20.0)
        found["tp in a mesh"] = (ranks.share, ranks.shares)
        ranks = ranks_of(Small(), mesh["data"], 20.0)
        found["given"] = (ranks.share, ranks.shares)
        return found

    for rank, found in enumerate(run_ranks(4, work)):
        assert found == {
            "ddp": (rank, 4),
            "fsdp": (rank, 4),
            "hsdp": (rank, 4),
            "tp": (0, 1),
            "fsdp+tp": (rank // 2, 2),
            "tp in a mesh": (rank // 2, 2),
            "given": (rank // 2, 2),
        }


def test_what_is_no_mesh_or_no_patience_is_refused_on_every_rank() -> None:
    def work() -> Any:
        texts = []
        for options in ({"mesh": "all of them"}, {"patience_s": 0.0}):
            with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
                Run(way("ddp", 2)).leap(**options)
            texts.append(str(error.value))
        return texts

    for rank, (mesh, patience) in enumerate(run_ranks(2, work)):
        assert mesh == f"mesh all of them does not hold rank {rank}: give the data-parallel DeviceMesh of every rank"
        assert patience == "patience_s is 0.0: give the seconds that a rank is to wait for the others"


def test_ddp_is_looked_into_and_parts_become_dtensors_again() -> None:
    def work() -> Any:
        run = Run(way("ddp", 2))
        seen = []

        def loss(model: nn.Module, rows: Any) -> Any:
            seen.append(type(model).__name__)
            return losses(model, rows)

        leap = run.leap(loss=loss, predictor="linear")
        assert "beside weights of 2.73 kB that move" in leap.memory
        assert next(iter(leap._driver.engine.weights.parameters)) == "scale"
        assert inner(torch.compile(run.model, backend="eager")) is run.model.module
        sharded = Run(way("fsdp", 2))
        memory = sharded.leap(predictor="linear").memory
        again = [like(each, local(each)) for each in sharded.model.parameters()]
        for one, other in zip(again, sharded.model.parameters(), strict=True):
            assert isinstance(one, DTensor)
            assert (one.shape, one.stride(), one.placements) == (other.shape, other.stride(), other.placements)
            assert torch.equal(one.full_tensor(), other.full_tensor())
        return set(seen), memory

    for seen, memory in run_ranks(2, work):
        assert seen == {"Small"}
        assert memory.startswith("this rank's leapverify will hold ")
        assert memory.endswith(" of the 2.73 kB that move")


def test_one_number_a_batch_is_one_unit_of_each_share() -> None:
    """And a model that nothing wraps is taken as one copy a rank, whose gradients the user averages."""

    def work() -> Any:
        run = Run(Way(lambda model: model, 2, lambda rank: rank))
        heldout = run.heldout * 2
        leap = run.leap(loss=lambda m, b: losses(m, b).mean(), heldout=heldout, sequences=16, mode="shadow")
        events = run.train(8, leap)
        assert leap.disabled is None
        return leap._driver.engine.attempter.batch_size, [event.sequences for event in events if event.verdict]

    # A round of two batches of 6 sequences of 9 tokens is two units.
    assert run_ranks(2, work) == [((2, 108), [16])] * 2


def test_one_process_meets_nobody() -> None:
    assert ranks_of(Small(), None, 1.0).alone
    leap = LeapVerify(nn.Linear(3, 3), torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1), mode="off")
    assert leap.memory == "the engine is off and holds nothing"
