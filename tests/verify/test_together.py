"""Held-out losses over ranks: the same numbers in the same order on every rank as in one process."""

from __future__ import annotations

import copy
import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from dealt_rows import DealtRows
from leapverify.core.ranks import Ranks, ranks_of_world
from leapverify.core.shards import local, reshard
from leapverify.errors import RanksDivergedError
from leapverify.verify import Exhausted, FreshBatches, Verifier, compare
from leapverify.verify.distributed import DealtBatches, SharedLoss
from leapverify.verify.selection import BatchGradients, HeldoutSelection
from processes import run_ranks

TEXT = torch.randint(0, 11, (40, 6), generator=torch.Generator().manual_seed(2))


def language_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(11, 7), nn.LayerNorm(7), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 11))


def losses(model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row; row i of the text counts as many tokens as its first one says, and 1."""
    found = nn.functional.cross_entropy(model(batch[:, :-1]).transpose(1, 2), batch[:, 1:], reduction="none").mean(1)
    return found, 1.0 + batch[:, 0]


def seen(output: Any) -> list[list[float]]:
    return [torch.as_tensor(each).tolist() for each in output]


def test_in_one_process_it_is_the_loss_function_itself() -> None:
    model, output = language_model(), []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        output.append(model(batch).mean())
        return output[-1]

    assert SharedLoss(loss, Ranks())(model, TEXT[:3]) is output[-1]
    assert DealtRows(loss, Ranks())(model, TEXT[:3]) is output[-1]
    batches = FreshBatches([TEXT[:2], TEXT[2:4]])
    assert torch.equal(DealtBatches(batches, Ranks()).draw(), TEXT[:2])


@pytest.mark.parametrize("size", [2, 3])
def test_losses_of_all_shares_follow_one_another(size: int) -> None:
    """Batches of other sizes on each rank; on the last one a sequence's loss is not a number."""
    cuts = [TEXT[0:3], TEXT[3:4], TEXT[4:9]][:size]

    def loss(model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
        found, tokens = losses(model, batch)
        if dist.is_initialized() and dist.get_rank() == size - 1:
            found[0] = math.nan
        return found, tokens

    def work() -> Any:
        ranks, model = ranks_of_world(), language_model()
        rows = seen(SharedLoss(loss, ranks)(model, cuts[ranks.rank]))
        scalars = seen(SharedLoss(lambda *_: torch.tensor(0.5 + ranks.rank), ranks)(model, None))
        return rows, scalars

    results = run_ranks(size, work)
    with torch.no_grad():
        each = [losses(language_model(), cut) for cut in cuts]
    each[-1][0][0] = math.nan
    for rows, scalars in results:
        np.testing.assert_array_equal(rows[0], torch.cat([found for found, _ in each]).double())
        assert rows[1] == torch.cat([tokens for _, tokens in each]).tolist()
        assert scalars == [[0.5 + rank for rank in range(size)], [1.0] * size]


@pytest.mark.failure(11)
@pytest.mark.parametrize("size", [2, 3])
def test_dealt_rows_come_back_in_their_order(size: int) -> None:
    """On a model in parts, also where there are fewer rows than ranks; equal to one process."""
    counts = (1, 2, 5, 6)
    with torch.no_grad():
        expected = [seen(losses(language_model(), TEXT[:count])) for count in counts]

    def work() -> Any:
        model = language_model()
        for layer in (model[0], model[2], model[4]):
            fully_shard(layer, mesh=init_device_mesh("cpu", (size,)))
        fully_shard(model, mesh=init_device_mesh("cpu", (size,)))
        loss = DealtRows(losses, ranks_of_world())
        with torch.no_grad():
            return [seen(loss(model, TEXT[:count])) for count in counts]

    results = run_ranks(size, work)
    assert all(each == results[0] for each in results)
    for got, wanted in zip(results[0], expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


@pytest.mark.failure(10)
def test_what_cannot_be_dealt_is_refused_on_every_rank() -> None:
    def work() -> Any:
        loss = DealtRows(lambda model, batch: model(batch).mean(), ranks_of_world())
        with pytest.raises(ValueError, match="for each sequence, and return one loss a row") as caught:
            loss(language_model(), TEXT[:5])
        return str(caught.value)

    one, other = run_ranks(2, work)
    assert one == other
    assert one.startswith("the loss function gave [1, 1] losses for [3, 2] rows of a batch of 5")


@pytest.mark.failure(9, 10)
def test_a_loss_that_fails_on_one_rank_ends_the_others_wait() -> None:
    def work() -> str:
        ranks = ranks_of_world()

        def loss(model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
            if ranks.rank == 1:
                raise MemoryError("out of memory")
            return losses(model, batch)

        try:
            SharedLoss(loss, ranks)(language_model(), TEXT[:2])
        except RanksDivergedError as apart:
            return str(apart)
        except MemoryError as error:
            ranks.fail(str(error))
            return "failed"
        return "went on"

    assert run_ranks(3, work) == ["rank 1: out of memory", "failed", "rank 1: out of memory"]


@pytest.mark.parametrize("size", [2, 3])
def test_what_ranks_draw_together_is_what_one_process_draws(size: int) -> None:
    """A round that is not whole is given to nobody; another number of ranks goes on where these stopped."""
    batches = list(range(7))

    def work() -> Any:
        ranks = ranks_of_world()
        dealt = DealtBatches(FreshBatches(batches), ranks)
        drawn, left = [], [dealt.left]
        with suppress(Exhausted):
            while True:
                drawn.append(dealt.draw())
                left.append(dealt.left)
        before = dealt.state_dict()
        dealt.open_window()
        further = DealtBatches(FreshBatches(batches), ranks)
        further.load_state_dict(before)
        further.open_window()
        return drawn, left, dealt.draws, dealt.size, dealt.draw() == further.draw()

    rounds = 7 // size
    for rank, (drawn, left, draws, of, same) in enumerate(run_ranks(size, work)):
        assert drawn == batches[rank : rounds * size : size]
        assert left == list(range(rounds, -1, -1))
        assert (draws, of, same) == (7, 7, True)


@pytest.mark.failure(10)
def test_data_that_end_on_one_rank_end_on_all() -> None:
    def work() -> Any:
        ranks = ranks_of_world()
        dealt = DealtBatches(FreshBatches([TEXT[:1]] * (4 if ranks.rank else 9)), ranks)
        drawn = 0
        try:
            while True:
                dealt.draw()
                drawn += 1
        except Exhausted as error:
            return drawn, str(error)

    (one, said), (other, spent) = run_ranks(2, work)
    assert one == other == 2
    assert "another rank has used all held-out batches of this window" in said
    assert "all 4 held-out batches" in spent


def test_a_set_too_small_for_whole_rounds_is_refused() -> None:
    three = Ranks(size=3, leaders=(0, 1, 2), gather=lambda word: [word] * 3)
    DealtBatches(FreshBatches([TEXT[:2]] * 9), three).require(6, 16)
    with pytest.raises(ValueError, match=r"has 16 sequences \(8 batches\), and 18 are needed"):
        DealtBatches(FreshBatches([TEXT[:2]] * 8), three).require(6, 16)


@pytest.mark.parametrize("size", [2, 3])
def test_a_comparison_over_ranks_is_that_of_one_process_with_joined_batches(size: int) -> None:
    """Each rank draws and runs its share; sizes differ between ranks."""
    cuts = [TEXT[i : i + 1 + i % 2] for i in range(36)]
    better = [each.detach() for each in language_model(1).parameters()]

    def compared(draw: Any, loss: Any) -> Any:
        model = language_model()
        own = [each.data for each in model.parameters()]
        now = [each.clone() for each in own]
        then = [a + 0.02 * (b - a) for a, b in zip(now, better, strict=True)]
        found = compare(
            model,
            loss,
            draw,
            to_now=lambda: torch._foreach_copy_(own, now),
            to_predicted=lambda: torch._foreach_copy_(own, then),
            budget=48,
        )
        return found.decision, found.sequences, found.tokens.tolist(), found.loss_now, found.loss_predicted, found.lower

    def work() -> Any:
        ranks = ranks_of_world()
        return compared(DealtBatches(FreshBatches(cuts), ranks).draw, SharedLoss(losses, ranks))

    joined = [torch.cat(cuts[i : i + size]) for i in range(0, len(cuts), size)]
    alone = compared(FreshBatches(joined).draw, losses)
    results = run_ranks(size, work)
    assert all(each == results[0] for each in results)
    assert results[0][:3] == alone[:3]
    np.testing.assert_allclose(results[0][3:], alone[3:], rtol=0, atol=1e-6)


@pytest.mark.failure(8, 11)
@pytest.mark.parametrize("spoilt", [False, True])
def test_verdicts_over_ranks_are_those_of_one_process(spoilt: bool) -> None:
    """Paired comparison and verifier, of a model in parts; with a part that is not finite, a refusal on every rank."""
    better = language_model(1)
    now = [each.detach().clone() for each in language_model().parameters()]
    then = [a + 0.3 * (b.detach() - a) for a, b in zip(now, better.parameters(), strict=True)]
    batches = [TEXT[i : i + 2] for i in range(0, 40, 2)]

    def judged(model: nn.Module, ranks: Ranks, points: list[list[Tensor]]) -> Any:
        own = [local(each) for each in model.parameters()]

        def write(point: list[Tensor]) -> None:
            reshard(model)
            with torch.no_grad():
                torch._foreach_copy_(own, point)

        dealt, fresh = DealtRows(losses, ranks), FreshBatches(batches)
        first, second = points
        found = compare(
            model, dealt, fresh.draw, to_now=lambda: write(first), to_predicted=lambda: write(second), budget=32
        )
        write(first)
        verifier = Verifier(model, batches, dealt, sequences=8, budget=16)
        baseline = verifier.measure()
        write(second)
        verdict = verifier.verify(baseline, 0.1)
        return (
            found.decision,
            found.sequences,
            found.gain,
            baseline.loss,
            verdict.finite,
            verdict.strict,
            verdict.paired,
        )

    def work() -> Any:
        ranks, model = ranks_of_world(), fully_shard(language_model(), mesh=init_device_mesh("cpu", (2,)))
        parts = []
        for point in (now, then):
            other = fully_shard(copy.deepcopy(better), mesh=init_device_mesh("cpu", (2,)))
            for target, whole in zip(other.parameters(), point, strict=True):
                start = target.__create_chunk_list__()[0].offsets[0]
                local(target).copy_(whole[start : start + len(local(target))])
            parts.append([local(each).clone() for each in other.parameters()])
        if spoilt and ranks.rank == 1:
            parts[1][0].fill_(math.nan)
        return judged(model, ranks, parts)

    one, other = run_ranks(2, work)
    assert one == other
    if spoilt:
        assert one[0] == "non-finite"
        assert not one[4]
    else:
        alone = judged(language_model(), Ranks(), [now, then])
        assert (one[0], one[1], one[4:]) == (alone[0], alone[1], alone[4:])
        np.testing.assert_allclose(one[2:4], alone[2:4], rtol=0, atol=1e-6)


@pytest.mark.failure(11)
def test_candidates_are_chosen_alike_on_a_model_in_parts() -> None:
    """Measured where they are, or put into the model and taken out again; the parts keep their bits."""
    batches = [TEXT[:3], TEXT[3:8]]
    moved = [each.detach() + 0.1 for each in language_model().parameters()]
    alone = HeldoutSelection(model := language_model(), list(model.parameters()), losses, batches)
    expected = [alone.loss(list(model.parameters())), alone.loss(moved)]

    def work() -> Any:
        model = fully_shard(language_model(), mesh=init_device_mesh("cpu", (2,)))
        parameters = list(model.parameters())
        with pytest.raises(ValueError, match="gradients are not taken of parameters that ranks hold in parts"):
            BatchGradients(model, parameters, lambda *_: torch.zeros(()), lambda _: TEXT)
        own = [local(each) for each in parameters]
        before = [each.clone() for each in own]
        selection = HeldoutSelection(model, parameters, DealtRows(losses, ranks_of_world()), batches)
        found = [selection.loss(own), selection.loss([each + 0.1 for each in own]), selection.loss(own)]
        return found, all(map(torch.equal, before, own)), all(map(torch.equal, before, map(local, model.parameters())))

    results = run_ranks(2, work)
    assert results[0] == results[1]
    found, kept, sharded = results[0]
    assert kept
    assert sharded
    assert found[2] == found[0]
    np.testing.assert_allclose(found[:2], expected, rtol=0, atol=1e-6)


def test_gradients_under_distributed_data_parallel_leave_its_backward_pass_alone() -> None:
    def work() -> bool:
        model = nn.parallel.DistributedDataParallel(language_model())
        gradients = BatchGradients(
            model, list(model.parameters()), lambda *each: losses(*each)[0].mean(), lambda _: TEXT
        )
        for _ in range(2):
            _, found = gradients.gradient(list(model.parameters()), 0)
            model.zero_grad()
            losses(model, TEXT)[0].mean().backward()
        return all(torch.allclose(a, b.grad, atol=1e-6) for a, b in zip(found, model.parameters(), strict=True))

    assert run_ranks(2, work) == [True, True]
