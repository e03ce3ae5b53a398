"""Fingerprints and straightness of models that are spread over ranks are those of one process, and leave no trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module

from lazily import transformers
from leapverify.core.ranks import ranks_of_world
from leapverify.core.shards import Shards, local, reshard
from leapverify.observe import Fingerprinter
from leapverify.observe.signals import straightness
from processes import run_ranks
from spread import KINDS, cutting

PROBES = [torch.tensor(ids) for ids in ([1, 2, 3], [4, 5], [6, 7, 8, 9], [10])]


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=13, n_positions=8, n_embd=6, n_layer=2, n_head=2)
    )


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.up, self.down = nn.Embedding(13, 6), nn.Linear(6, 8), nn.Linear(8, 6)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 13)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed(ids)
        return self.head(self.norm(hidden + self.down(self.up(hidden).relu()))).tanh()


def by_layers(model: nn.Module, size: int) -> nn.Module:
    mesh = init_device_mesh("cpu", (size,))
    for block in model.transformer.h:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def hybrid(model: nn.Module, size: int) -> nn.Module:
    return fully_shard(model, mesh=init_device_mesh("cpu", (1, size), mesh_dim_names=("replicate", "shard")))


def tensor_parallel(model: nn.Module, size: int) -> nn.Module:
    plan: Any = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    return parallelize_module(model, init_device_mesh("cpu", (size,)), plan)


def sequence_parallel(model: nn.Module, size: int) -> nn.Module:
    """The norm gives a DTensor, cut along the tokens."""
    plan: Any = {
        "embed": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1), use_local_output=False),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(output_layouts=Shard(1), use_local_output=False),
        "norm": SequenceParallel(),
        "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    }
    return parallelize_module(model, init_device_mesh("cpu", (size,)), plan)


def data_parallel(model: nn.Module, size: int) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


@pytest.mark.failure(11)
@pytest.mark.parametrize(
    ("made", "wrapped", "layer", "size"),
    [
        (gpt2, by_layers, None, 2),
        (gpt2, by_layers, None, 3),
        (gpt2, by_layers, "transformer.h.1.mlp", 2),
        (gpt2, hybrid, "transformer.h.0", 2),
        (gpt2, data_parallel, None, 2),
        (Small, hybrid, None, 3),
        (Small, tensor_parallel, None, 2),
        (Small, sequence_parallel, None, 2),
    ],
)
def test_the_fingerprint_is_that_of_one_process(
    made: Callable[[], nn.Module], wrapped: Callable[[nn.Module, int], nn.Module], layer: str | None, size: int
) -> None:
    """Of tied weights too; afterwards a rank holds its parts alone, with their bits, and the model trains on."""
    expected = Fingerprinter(made(), PROBES, layer=layer)

    def work() -> Any:
        model = wrapped(made(), size)
        kinds, before = [type(each) for each in model.parameters()], [local(p).clone() for p in model.parameters()]
        fingerprint = Fingerprinter(model, PROBES, layer=layer)
        found = [fingerprint().numpy() for _ in range(2)]
        same = all(map(torch.equal, before, map(local, model.parameters())))
        model(torch.tensor([[1, 2, 3]]))
        reshard(model)
        return found, fingerprint.identity, same and kinds == [type(each) for each in model.parameters()]

    results = run_ranks(size, work)
    wanted = expected().numpy()
    for (first, second), identity, unchanged in results:
        np.testing.assert_array_equal(first, results[0][0][0])
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, wanted, rtol=0, atol=1e-6)
        assert identity == expected.identity
        assert unchanged


@pytest.mark.failure(8, 11)
def test_straightness_is_that_of_the_whole_and_none_where_one_part_is_not_finite() -> None:
    generator = torch.Generator().manual_seed(5)
    points = [[torch.randn(shape, generator=generator) for shape, _ in KINDS.values()] for _ in range(3)]

    def work() -> Any:
        cut, shards, _ = cutting(3)
        held = [cut(point) for point in points]
        found = straightness(*held, shards=shards)
        if shards.ranks.rank == 2:
            held[0][0] = torch.full_like(held[0][0], math.inf)
        return found, straightness(*held, shards=shards)

    results = run_ranks(3, work)
    assert len({found for found, _ in results}) == 1
    assert math.isclose(results[0][0], straightness(*points), rel_tol=1e-12)
    assert all(math.isnan(spoilt) for _, spoilt in results)


@pytest.mark.failure(11)
def test_a_plain_norm_of_a_spread_model_is_local_and_the_shards_know_better() -> None:
    """Every parameter of a hybrid mesh counts once, on every rank."""

    def work() -> Any:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
        model = fully_shard(Small(), mesh=mesh)
        parameters = list(model.parameters())
        assert all(isinstance(each, DTensor) for each in parameters)
        held = [[local(each) * factor for each in parameters] for factor in (1.0, 0.5, 0.3)]
        return straightness(*held, shards=Shards.of(parameters, ranks_of_world()))

    found = run_ranks(4, work)
    whole = [[each.detach() * factor for each in Small().parameters()] for factor in (1.0, 0.5, 0.3)]
    assert len(set(found)) == 1
    assert math.isclose(found[0], straightness(*whole), rel_tol=1e-12)
