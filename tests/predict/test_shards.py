"""On parts of tensors every predictor gives this rank's part of what one process gives, or declines on all ranks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from leapverify.core import weights
from leapverify.core.ranks import ranks_of_world
from leapverify.core.shards import Shards, local
from leapverify.errors import Declined, RanksDivergedError
from leapverify.predict import CATALOGUE, Predictor, predictor, prepare
from leapverify.trajectory.context import Layout
from leapverify.trajectory.history import History, OptimizerState
from leapverify.trajectory.milestones import Milestones
from nino_checkpoints import write_graph, write_mlp
from processes import run_ranks
from rank_layouts import tried_on
from spread import KINDS, cutting, trajectory

SUMMED = (
    "random", "quadratic-clamped", "rre", "anderson", "dmd-2", "rank1", "fast-forward", "subspace", "subspace-layers",
    "introspection", "nino-mlp", "wnn",
)  # fmt: skip
"""Those that know something of whole tensors, and so carry the rounding of a sum, and networks, whose products of
matrices have other heights on parts and round otherwise on wide vector units; all others are equal to the bit."""
DECLINING = ("nino",)
HORIZON = 50


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictor]:
    folder: Path = tmp_path_factory.mktemp("nino")
    files = {"nino-mlp": write_mlp(folder / "mlp.pt"), "nino": write_graph(folder / "graph.pt")}
    options: dict[str, dict[str, Any]] = {name: {"file": file} for name, file in files.items()}
    return {name: predictor(name, **options.get(name, {})) for name in CATALOGUE}


def said(method: Predictor, history: History) -> Any:
    """The prediction, or why there is none."""
    try:
        return [each.numpy() for each in method.predict(history, HORIZON)]
    except Declined as declined:
        return declined.reason


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest, relative where numbers are above 1."""
    return float(((got - wanted).abs() / wanted.abs().clamp(min=1.0)).max()) if got.numel() else 0.0


@pytest.mark.failure(11)
@pytest.mark.parametrize("size", [2, 3])
def test_parts_are_predicted_as_one_process_predicts_the_whole(size: int, catalogue: dict[str, Predictor]) -> None:
    """Uneven, empty, strided, copied and plain ones, through the whole catalogue."""
    whole = trajectory()
    expected = {name: said(method, whole) for name, method in catalogue.items()}

    def work() -> dict[str, Any]:
        cut, shards, held = cutting(size)
        history = trajectory(cut, shards)
        found: dict[str, Any] = {}
        for name, method in catalogue.items():
            out = [local(each) for each in held]
            try:
                method.predict(history, HORIZON, out=out)
            except Declined as declined:
                found[name] = declined.reason
                continue
            wanted = cut([torch.from_numpy(each) for each in expected[name]])
            if name == "random":
                steps = [weights.distance(p, history[-1].tensors, shards) for p in (out, wanted)]
                found[name] = abs(steps[0] / steps[1] - 1.0)
            else:
                found[name] = max(map(error, out, wanted))
        again = cut([torch.from_numpy(each) for each in expected["linear"]])
        linear = catalogue["linear"].predict(history, HORIZON)
        return found | {"alone": all(map(torch.equal, linear, again)), "empty": sum(not e.numel() for e in again)}

    results = run_ranks(size, work)
    assert max(each.pop("empty") for each in results) > 1
    assert all(each.pop("alone") for each in results)
    for name in CATALOGUE:
        found = [each[name] for each in results]
        if name in DECLINING:
            assert set(found) == {"needs whole tensors, a rank holds parts"}
        else:
            assert not any(isinstance(each, str) for each in found), (name, found)
            assert max(found) <= (1e-6 if name in SUMMED else 0.0), (name, found)


@pytest.mark.failure(11)
def test_any_shapes_cut_in_any_way_are_predicted_as_the_whole(catalogue: dict[str, Predictor]) -> None:
    """Twenty random lists of tensors over three ranks."""
    methods = [catalogue[name] for name in ("quadratic-clamped", "rre", "dmd-2", "rank1", "nino-mlp", "linear-fit")]
    names = ("wte.weight", "h.0.ln_1.bias", "attn.c_attn.weight", "attention.query_key_value.weight")

    def walk(shapes: Sequence[Sequence[int]], generator: torch.Generator) -> list[list[torch.Tensor]]:
        first, drift = ([torch.randn(*shape, generator=generator) for shape in shapes] for _ in range(2))
        noise = [[torch.randn(*shape, generator=generator) for shape in shapes] for _ in range(6)]
        return [
            [a + 0.1 * i * b + 0.02 * c for a, b, c in zip(first, drift, own, strict=True)]
            for i, own in enumerate(noise)
        ]

    def history_of(points: Sequence[Sequence[torch.Tensor]], shards: Shards | None) -> History:
        history = History(points[0], 6)
        history.shards, history.layout = shards, Layout(names, "gpt_neox", 2, 2)
        for number, point in enumerate(points):
            history.push(10 * number, point)
        return history

    def work() -> float:
        mesh, ranks, worst = init_device_mesh("cpu", (3,)), ranks_of_world(), 0.0
        for seed in range(20):
            choice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
            width = choice.randint(1, 7)
            shapes = [(choice.randint(0, 9), width), (choice.randint(1, 8),), (width, 3 * width), (6 * width, width)]
            cuts = [choice.choice([Replicate(), *map(Shard, range(len(shape)))]) for shape in shapes]
            held = [distribute_tensor(torch.zeros(s), mesh, [cut]) for s, cut in zip(shapes, cuts, strict=True)]
            shards = Shards.of(held, ranks)
            index = [
                tuple(slice(at, at + length) for at, length in zip(start, local(each).shape, strict=True))
                for start, each in zip(shards.starts, held, strict=True)
            ]
            points = walk(shapes, generator)
            parts = [[each[where] for each, where in zip(point, index, strict=True)] for point in points]
            whole, own = history_of(points, None), history_of(parts, shards)
            for method in methods:
                expected = method.predict(whole, 15)
                for got, wanted, where in zip(method.predict(own, 15), expected, index, strict=True):
                    worst = max(worst, error(got, wanted[where]))
        return worst

    assert max(run_ranks(3, work)) <= 1e-6


@pytest.mark.failure(11)
def test_sums_over_parts_carry_no_rounding_of_their_own(catalogue: dict[str, Predictor]) -> None:
    """Small, nearly parallel displacements: what a sum in float32 loses, `subspace-layers` divides by their squares."""
    methods = {name: catalogue[name] for name in ("subspace", "subspace-layers")}
    for of_rank in run_ranks(2, lambda: tried_on(2005, methods, (2,))):
        assert max(of_rank["errors"].values()) <= 2e-7


@pytest.mark.failure(8)
def test_a_part_that_is_not_finite_on_one_rank_is_refused_on_all(catalogue: dict[str, Predictor]) -> None:
    """Declined with one reason, or found to be not finite, by every rank."""

    def work() -> dict[str, Any]:
        cut, shards, held = cutting(2)
        history = trajectory(cut, shards, spoilt=1)
        found: dict[str, Any] = {}
        for name, method in catalogue.items():
            out = [local(each) for each in held]
            try:
                method.predict(history, HORIZON, out=out)
                found[name] = weights.all_finite(out, shards)
            except Declined as declined:
                found[name] = declined.reason
        return found

    one, other = run_ranks(2, work)
    assert one == other
    reads = {name for name in CATALOGUE if not name.startswith(("ema-", "adam"))}
    assert not [name for name in reads if one[name] is True], one
    assert "not finite" in one["rre"]


@pytest.mark.failure(10, 11)
def test_a_rank_without_any_element_comes_to_the_same_meetings(catalogue: dict[str, Predictor]) -> None:
    """And so does one whose cache holds other predictions' sums already."""
    summed = [catalogue[name] for name in ("quadratic-clamped", "random", "rre", "dmd-2", "rank1")]
    points = [torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(i)) for i in range(6)]

    def work() -> Any:
        mesh = init_device_mesh("cpu", (3,))
        like = nn.ParameterList([nn.Parameter(points[0][i]) for i in range(2)])
        fully_shard(like, mesh=mesh)
        held = list(like.parameters())
        shards = Shards.of(held, ranks_of_world())
        history = History([local(each) for each in held], 6)
        history.shards = shards
        for number, point in enumerate(points):
            history.push(25 * number, [each[: local(own).shape[0]] for each, own in zip(point, held, strict=True)])
        prepare(summed, history, [local(each) for each in held])
        moved = [weights.distance(each.predict(history, 5), history[-1].tensors, shards) for each in summed]
        return sum(local(each).numel() for each in held), moved

    (many, moved), *others = run_ranks(3, work)
    assert many == 10
    assert others == [(0, moved)] * 2
    assert all(each > 0 for each in moved)


@pytest.mark.failure(10)
def test_ranks_that_ask_for_different_predictions_are_all_told(catalogue: dict[str, Predictor]) -> None:
    def work() -> str:
        cut, shards, _ = cutting(2)
        history = trajectory(cut, shards)
        with pytest.raises(RanksDivergedError) as caught:
            catalogue["random" if shards.ranks.rank else "rre"].predict(history, HORIZON)
        return str(caught.value)

    one, other = run_ranks(2, work)
    assert one == other
    assert "rank 0 at 'Gram matrices of 16 snapshots at step 400', rank 1 at 'squares of d1 at step 400'" in one


@pytest.mark.failure(11)
def test_copies_of_parts_stay_copies(catalogue: dict[str, Predictor]) -> None:
    """A hybrid mesh of four ranks: what is predicted for two copies of one part has the same bits, `random` too."""
    names = ("random", "rre", "quadratic-clamped", "introspection")
    whole = trajectory()

    def work() -> Any:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
        held = [distribute_tensor(torch.zeros(shape), mesh, [Replicate(), Shard(0)]) for shape in ((6, 18), (1, 4))]
        shards = Shards.of(held, ranks_of_world())

        def cut(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            parts = zip((tensors[2], tensors[7]), shards.starts, held, strict=True)
            return [each[start : start + len(local(own))] for each, (start, _), own in parts]

        history = History(cut(whole[0].tensors), 16)
        history.shards, history.milestones = shards, Milestones()
        history.milestones.push(0, cut(whole[0].tensors))
        for snapshot in whole:
            history.push(snapshot.step, cut(snapshot.tensors))
        found = [[each.numpy() for each in catalogue[name].predict(history, HORIZON)] for name in names]
        return mesh.get_local_rank("shard"), found

    results = run_ranks(4, work)
    for place in (0, 1):
        one, other = (found for at, found in results if at == place)
        for left, right in zip(one, other, strict=True):
            assert all(map(np.array_equal, left, right))
    assert not np.array_equal(np.sign(results[0][1][0][0]), np.sign(results[1][1][0][0]))


def test_whole_tensors_on_several_ranks_are_predicted_to_the_bit(catalogue: dict[str, Predictor]) -> None:
    """DistributedDataParallel: every rank predicts what one process predicts, `random` and `nino` too."""
    expected = {name: said(method, trajectory()) for name, method in catalogue.items()}

    def work() -> list[str]:
        shards = Shards.of([torch.zeros(shape) for shape, _ in KINDS.values()], ranks_of_world())
        history = trajectory(shards=shards)
        return [
            name
            for name, method in catalogue.items()
            if not all(map(np.array_equal, said(method, history), expected[name]))
        ]

    assert run_ranks(2, work) == [[], []]


@pytest.mark.failure(11)
@pytest.mark.parametrize("size", [2, 3])
def test_a_sharded_run_predicts_what_one_process_does(size: int, catalogue: dict[str, Predictor]) -> None:
    """Weights and moments of `fully_shard`, uneven, with tied matrices."""
    names = ("adam", "momentum", "quadratic-clamped", "rre")

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.inner, self.head = nn.Embedding(7, 5), nn.Linear(5, 5), nn.Linear(5, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(torch.tanh(self.inner(self.embed(ids))))

    def predicted(sharded: bool) -> list[list[Any]]:
        torch.manual_seed(0)
        model: nn.Module = Tied()
        if sharded:
            fully_shard(model, mesh=init_device_mesh("cpu", (size,)))
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=1e-2, foreach=False)
        history = History([local(each) for each in parameters], 4)
        history.shards = Shards.of(parameters, ranks_of_world()) if sharded else None
        for step in range(1, 9):
            optimizer.zero_grad()
            ids = torch.arange(6).view(2, 3) + step % 2
            nn.functional.cross_entropy(model(ids).flatten(0, 1), (ids + 1).flatten() % 7).backward()
            optimizer.step()
            if step % 2 == 0:
                history.push(step, [local(each) for each in parameters])
        history.optimizer = OptimizerState.from_optimizer(optimizer, parameters, step=8)
        found = []
        for name in names:
            catalogue[name].predict(history, 3, out=[local(each) for each in parameters])
            found.append([whole(each).detach().numpy().copy() for each in parameters])
        return found

    def whole(tensor: Any) -> torch.Tensor:
        return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

    expected = predicted(False)
    for found in run_ranks(size, predicted, True):
        for name, got, wanted in zip(names, found, expected, strict=True):
            for a, b in zip(got, wanted, strict=True):
                # `rre` solves a system whose condition multiplies the rounding of the sums.
                bound = 1e-5 if name == "rre" else 1e-6
                np.testing.assert_allclose(a, b, rtol=bound, atol=bound, err_msg=name)
