"""The leap over the decay: picked on some batches, verified on others, and the run is left as it was."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leapverify.core import weights
from leapverify.leap.anneal.averages import AnnealMemory, AnnealStore
from leapverify.leap.anneal.search import SELECTION_BATCHES, Annealed, anneal
from leapverify.verify import FreshBatches, mean_loss_of
from marks import slow

Batch = tuple[Tensor, Tensor]
WIDTH, ROWS = 12, 16
TRUTH = torch.linspace(-1, 1, WIDTH)


class Model(nn.Module):
    """A linear map behind what disturbs easily: dropout and batch norm, whose effect on the output is none."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(WIDTH), nn.Dropout(0.5)
        self.linear = nn.Linear(WIDTH, 1, bias=False)
        self.norm.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.dropout(self.norm(x))).squeeze(-1)


def squared(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]) - batch[1]).square().float()


class Source:
    """Fresh batches, and a list of those drawn."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.drawn: list[Batch] = []

    def __call__(self) -> Batch:
        x = torch.randn(ROWS, WIDTH, generator=self._generator)
        self.drawn.append((x, x @ TRUTH + 0.1 * torch.randn(ROWS, generator=self._generator)))
        return self.drawn[-1]


def noisy_run(
    memory: AnnealMemory | None = None, steps: int = 60, spread: float = 0.3, dtype: torch.dtype = torch.float32
) -> tuple[Model, dict[str, nn.Parameter], AnnealStore]:
    """The end of a run at a constant rate: weights that jump about the truth."""
    torch.manual_seed(0)
    model = Model()
    model.linear.to(dtype)
    if dtype != torch.float32:
        model.linear.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype),))
    parameters = weights.trainable(model)
    store = AnnealStore(list(parameters.values()), memory or AnnealMemory(8, 5))
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        with torch.no_grad():
            model.linear.weight.copy_(TRUTH + spread * torch.randn(1, WIDTH, generator=generator))
        store.push(step, list(parameters.values()))
    return model, parameters, store


def fingerprint(model: nn.Module) -> str:
    """A hash of everything that a run depends on."""
    digest = hashlib.sha256()
    for tensor in (*model.parameters(), *model.buffers()):
        digest.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    digest.update(repr([module.training for module in model.modules()]).encode())
    digest.update(torch.get_rng_state().numpy().tobytes())
    digest.update(repr(random.getstate()).encode())
    digest.update(np.random.get_state()[1].tobytes())  # type: ignore[union-attr]
    return digest.hexdigest()


def annealed(run: tuple[Model, dict[str, nn.Parameter], AnnealStore], draw: Any = None, **options: Any) -> Annealed:
    model, parameters, store = run
    loss = options.pop("loss", squared)
    return anneal(model, parameters, store, loss, draw or Source(), step=60, **options)


def test_the_average_of_a_noisy_run_is_accepted_and_the_run_left_alone() -> None:
    run = noisy_run()
    model, _, store = run
    before, source = fingerprint(model), Source()
    found = annealed(run, source)
    assert fingerprint(model) == before
    assert found.accepted
    assert found.loss is not None
    assert found.raw_loss is not None
    assert found.loss < 0.5 * found.raw_loss
    assert found.gain == pytest.approx(found.raw_loss - found.loss)
    assert found.lower is not None
    assert 0 < found.lower < found.gain
    assert (found.step, found.window_steps, found.snapshots) == (60, 35, 8)
    assert found.reason.startswith(f"the {found.shape} decay over 35 steps (8 snapshots) lowers the held-out loss")
    [candidate] = [each for each in store.candidates() if (each.count, each.shape) == (8, found.shape)]
    out = [torch.empty(1, WIDTH)]
    store.write(candidate, out)
    assert torch.equal(found.weights["linear.weight"], out[0])


def test_the_loss_told_is_of_batches_that_the_average_was_not_picked_by() -> None:
    run = noisy_run()
    source = Source()
    seen: dict[int, list[Tensor]] = {}

    def recording(model: nn.Module, batch: Batch) -> Tensor:
        weight = next(iter(model.linear.parameters()))  # type: ignore[union-attr]
        seen.setdefault(id(batch[0]), []).append(weight.detach().clone())
        return squared(model, batch)

    found = annealed(run, source, loss=recording, selection_sequences=40)
    model, parameters, _ = run
    chosen, after = source.drawn[:3], source.drawn[3:]  # 48 sequences are the least that hold 40
    assert len(after) * ROWS == found.sequences
    states = {id(batch[0]): {tuple(each.flatten().tolist()) for each in seen[id(batch[0])]} for batch in source.drawn}
    assert all(len(states[id(batch[0])]) == 8 for batch in chosen)  # raw, 5 windows, 2 more shapes
    assert all(states[id(chosen[0][0])] == states[id(batch[0])] for batch in chosen)
    assert all(len(states[id(batch[0])]) == 2 for batch in after)
    assert found.raw_loss == pytest.approx(mean_loss_of(model, squared, after))
    weights.copy_(list(parameters.values()), list(found.weights.values()))
    assert found.loss == pytest.approx(mean_loss_of(model, squared, after))
    # The first batch is run alone at first, which tells how many sequences it has.
    assert found.positions == ROWS * (1 + 3 * 8 + 2 * len(after))


def test_raw_weights_stay_where_nothing_is_better() -> None:
    model, parameters, store = noisy_run()
    with torch.no_grad():
        model.linear.weight.copy_(TRUTH)  # no average of noisy weights is as good
    found = annealed((model, parameters, store))
    assert not found.accepted
    assert found.loss == found.raw_loss
    assert (found.gain, found.lower, found.window_steps, found.shape, found.snapshots) == (None, None, None, None, 0)
    assert found.reason.startswith("none of 7 averages lowers the held-out loss: ")
    assert torch.equal(found.weights["linear.weight"], model.linear.weight)
    assert found.weights["linear.weight"].data_ptr() != model.linear.weight.data_ptr()
    assert not found.weights["linear.weight"].requires_grad


def test_luck_on_the_selection_batches_is_not_believed() -> None:
    run = noisy_run(AnnealMemory(2, 5))
    source, before = Source(), fingerprint(run[0])

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        """On the first batches anything but the raw weights looks good, on later ones nothing does."""
        moved = not torch.equal(model.linear.weight, raw)  # type: ignore[union-attr]
        early = any(batch[0] is drawn[0] for drawn in source.drawn[:4])
        return batch[0][:, 0].abs() + (-1.0 if early else 1.0) * (0.5 if moved else 0.0)

    raw = run[0].linear.weight.detach().clone()
    found = annealed(run, source, loss=loss)
    assert fingerprint(run[0]) == before
    assert not found.accepted
    assert found.gain == pytest.approx(-0.5)
    assert found.loss == found.raw_loss
    assert found.window_steps == 5
    assert "does not lower the held-out loss on batches that it was not picked by: gain -0.5 nats" in found.reason
    assert torch.equal(found.weights["linear.weight"], raw)


def test_a_budget_that_does_not_suffice_is_said() -> None:
    run = noisy_run(AnnealMemory(2, 1), spread=1e-4)
    noise = torch.Generator().manual_seed(3)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        moved = not torch.equal(model.linear.weight, raw)  # type: ignore[union-attr]
        return torch.randn(ROWS, generator=noise) - (0.2 if moved else 0.0)

    raw = run[0].linear.weight.detach().clone()
    found = annealed(run, loss=loss, budget=32, selection_sequences=4096)
    assert not found.accepted
    assert found.sequences == 32
    assert "but the budget or the held-out set does not suffice to tell" in found.reason


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_losses_that_are_not_finite(bad: float) -> None:
    run = noisy_run()
    before = fingerprint(run[0])
    raw = run[0].linear.weight.detach().clone()

    def moved_is_bad(model: nn.Module, batch: Batch) -> Tensor:
        moved = not torch.equal(model.linear.weight, raw)  # type: ignore[union-attr]
        return squared(model, batch) * (bad if moved else 1.0)

    found = annealed(run, loss=moved_is_bad)
    assert found.reason == "none of 5 averages has a finite held-out loss"
    assert found.loss == found.raw_loss
    assert found.raw_loss is not None
    always = annealed(run, loss=lambda model, batch: squared(model, batch) * bad)
    assert always.reason == f"the held-out loss of the raw weights is {bad}"
    assert (always.loss, always.raw_loss) == (None, None)

    source = Source()

    def later_is_bad(model: nn.Module, batch: Batch) -> Tensor:
        return squared(model, batch) * (bad if len(source.drawn) > 4 and batch is source.drawn[-1] else 1.0)

    late = annealed(run, source, loss=later_is_bad)
    assert not late.accepted
    assert late.reason.endswith("has a held-out loss that is not finite (n = 16)")
    assert fingerprint(run[0]) == before
    for each in (found, always, late):
        assert torch.equal(each.weights["linear.weight"], raw)


def test_an_average_that_is_not_finite_is_passed_over() -> None:
    model, parameters, store = noisy_run(AnnealMemory(4, 5, emas=(0.9,)))
    state = store.state_dict()
    state["emas"][0][0][0, 3] = math.nan
    found = annealed((model, parameters, store))
    assert found.accepted
    assert found.shape != "exponential"
    assert bool(torch.isfinite(model.linear.weight).all())


def failing(calls: int, error: BaseException) -> Callable[[nn.Module, Batch], Tensor]:
    count = itertools.count()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        if next(count) == calls:
            raise error
        return squared(model, batch)

    return loss


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("calls", [0, 1, 5, 6, 20, 33, 34])
def test_raw_weights_come_back_from_any_exception(calls: int, error: BaseException) -> None:
    run = noisy_run()
    before = fingerprint(run[0])
    with pytest.raises(type(error)):
        annealed(run, loss=failing(calls, error))
    assert fingerprint(run[0]) == before


def test_raw_weights_come_back_if_drawing_fails() -> None:
    run = noisy_run()
    before, source = fingerprint(run[0]), Source()

    def draw() -> Batch:
        if len(source.drawn) == 5:
            raise OSError("the disk is gone")
        return source()

    with pytest.raises(OSError, match="the disk is gone"):
        annealed(run, draw)
    assert fingerprint(run[0]) == before


@pytest.mark.parametrize(
    ("memory", "pushes", "text"),
    [
        (AnnealMemory(8, 5), 0, "0 snapshots are held and no running average: go on until there are at least 2"),
        (AnnealMemory(8, 5), 1, "1 snapshots are held and no running average: go on until there are at least 2"),
        (AnnealMemory(0, 5, emas=(0.9,)), 1, "0 snapshots are held and no running average"),
    ],
)
def test_too_little_memory_yet(memory: AnnealMemory, pushes: int, text: str) -> None:
    source = Source()
    found = annealed(noisy_run(memory, steps=pushes), source)
    assert not found.accepted
    assert found.reason.startswith(text)
    assert (found.loss, found.raw_loss, found.sequences, found.positions) == (None, None, 0, 0)
    assert source.drawn == []


def test_an_ema_may_win() -> None:
    run = noisy_run(AnnealMemory(0, 1, emas=(0.5, 0.95)))
    found = annealed(run)
    assert found.accepted
    assert (found.shape, found.window_steps, found.snapshots) == ("exponential", 20, 60)
    assert found.reason.startswith("the EMA of decay 0.95 lowers the held-out loss")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_are_copies_in_float32_whatever_the_model_has(dtype: torch.dtype) -> None:
    run = noisy_run(dtype=dtype)
    before = fingerprint(run[0])
    wide = torch.promote_types(dtype, torch.float32)
    found = annealed(run)
    assert found.accepted
    assert found.weights["linear.weight"].dtype == wide
    rejected = annealed(run, candidates=[])
    assert torch.equal(rejected.weights["linear.weight"], run[0].linear.weight.to(wide))
    assert fingerprint(run[0]) == before


def test_weights_are_handed_out_in_copies() -> None:
    run = noisy_run()
    held = run[0].linear.weight
    before = fingerprint(run[0])
    for found in (annealed(run), annealed(run, candidates=[])):
        assert fingerprint(run[0]) == before
        assert found.weights["linear.weight"].data_ptr() != held.data_ptr()
    assert torch.equal(annealed(run, candidates=[]).weights["linear.weight"], held)


def test_fewer_candidates_cost_less() -> None:
    run = noisy_run()
    chosen = [each for each in run[2].candidates() if each.shape == "linear" and each.count > 4]
    found = annealed(run, candidates=chosen)
    assert found.accepted
    assert found.shape == "linear"
    assert found.positions == ROWS * 1 + 4 * ROWS * (1 + len(chosen)) + 2 * found.sequences


def test_a_loss_of_one_number_a_batch_is_picked_by_few_batches() -> None:
    source = Source()
    found = annealed(noisy_run(), source, loss=lambda model, batch: squared(model, batch).mean())
    assert found.accepted
    assert len(source.drawn) == SELECTION_BATCHES + found.sequences


# --- a held-out set that ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "picking"), [(2, 1), (3, 1), (5, 2), (6, 3), (8, 4), (20, 4)])
def test_picking_takes_at_most_half_of_what_is_left(count: int, picking: int) -> None:
    source = Source()
    fresh = FreshBatches([source() for _ in range(count)])
    found = annealed(noisy_run(), fresh.draw, left=fresh.left)
    assert found.sequences > 0
    assert fresh.draws == picking + found.sequences // ROWS


def test_picking_leaves_enough_for_the_test_to_decide() -> None:
    """Half of five batches of four would leave 12 sequences."""
    source = Source()
    fresh = FreshBatches([tuple(each[:4] for each in source()) for _ in range(5)])
    found = annealed(noisy_run(), fresh.draw, left=fresh.left)
    assert (fresh.draws, found.sequences) == (5, 16)


@pytest.mark.parametrize("used", [0, 1])
def test_too_few_batches_are_said_and_none_of_them_is_used(used: int) -> None:
    fresh = FreshBatches([Source()()])
    for _ in range(used):
        fresh.draw()
    run = noisy_run()
    found = annealed(run, fresh.draw, left=fresh.left)
    assert (found.accepted, found.loss, found.sequences, found.positions) == (False, None, 0, 0)
    assert found.reason == "too few held-out batches are left to pick by some and verify on others"
    assert fresh.draws == used
    assert torch.equal(found.weights["linear.weight"], run[0].linear.weight)


def test_a_set_of_unknown_size_that_ends_while_picking_leaves_it_open() -> None:
    fresh = FreshBatches([Source()() for _ in range(3)])
    found = annealed(noisy_run(), fresh.draw)
    assert (found.accepted, found.gain, found.sequences) == (False, None, 0)
    assert "but the budget or the held-out set does not suffice to tell (n = 0)" in found.reason
    again = annealed(noisy_run(), fresh.draw)
    assert again.reason.startswith("too few held-out batches are left")


@pytest.mark.parametrize("count", [2, 4, slow(8), slow(16)])
def test_averages_that_gain_nothing_are_accepted_at_most_at_the_stated_rate(count: int) -> None:
    """Every weight has the mean loss 0, and the best of seven averages is picked."""
    generator, runs, alpha, accepted = torch.Generator().manual_seed(count), 200, 0.05, 0
    model = nn.Linear(WIDTH, 1, bias=False)
    parameters = dict(model.named_parameters())
    for _ in range(runs):
        store = AnnealStore([model.weight], AnnealMemory(8, 1))
        for step in range(8):
            model.weight.data.copy_(torch.randn(1, WIDTH, generator=generator))
            store.push(step, [model.weight])
        fresh = FreshBatches([torch.randn(ROWS, WIDTH, generator=generator) for _ in range(count)])
        found = anneal(
            model, parameters, store, lambda model, x: model(x)[:, 0], fresh.draw, step=8, alpha=alpha, left=fresh.left
        )
        assert fresh.draws <= count
        accepted += found.accepted
    assert accepted <= runs * alpha + 3.0 * math.sqrt(runs * alpha * (1.0 - alpha))


def test_a_graph_that_waits_for_its_backward_pass_is_not_upset() -> None:
    run = noisy_run()
    model, source = run[0], Source()
    waiting, place = squared(model, source()).sum(), model.linear.weight.data_ptr()
    annealed(run, source)
    waiting.backward()
    assert model.linear.weight.grad is not None
    assert model.linear.weight.data_ptr() == place


def test_bad_calls() -> None:
    run = noisy_run()
    with pytest.raises(ValueError, match="selection_sequences = 0 leave nothing to pick by"):
        annealed(run, selection_sequences=0)
