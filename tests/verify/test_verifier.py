"""The validator: exact pairing, no trace in the model, no more forward passes than are needed."""

import copy
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leapverify.verify import Verdict, Verifier

Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """A model with everything that evaluation could disturb: running statistics, dropout, a counting buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(4, 1)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.calls += 1
        return self.out(self.drop(self.norm(x))).squeeze(1)


def per_sequence(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]) - batch[1]) ** 2


def scalar(model: nn.Module, batch: Batch) -> Tensor:
    return per_sequence(model, batch).mean()


def counted(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    return per_sequence(model, batch), torch.arange(1, len(batch[1]) + 1)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    model.norm(torch.randn(32, 4))
    return model


def make_batches(count: int = 16, size: int = 8, seed: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    xs = [torch.randn(size, 4, generator=generator) for _ in range(count)]
    return [(x, x.sum(1) + torch.randn(size, generator=generator)) for x in xs]


def shift(model: Net, amount: float) -> None:
    """Move the weights towards those that made the data, or away from them."""
    with torch.no_grad():
        model.out.weight += amount * (1.0 - model.out.weight)


def reference(model: Net, batches: list[Batch]) -> Tensor:
    """Per-sequence losses in float64 from a copy, one sequence at a time."""
    twin = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        return torch.cat(
            [per_sequence(twin, (x[None].double(), y[None].double())) for b in batches for x, y in zip(*b, strict=True)]
        )


def passed(verdict: Verdict) -> list[str]:
    """Names of the criteria that accept."""
    return [name for name in ("strict", "adaptive", "proximity", "paired") if getattr(verdict, name)]


LOSSES: list[Callable[[nn.Module, Any], Any]] = [per_sequence, scalar, counted]


# --- what is measured -------------------------------------------------------------------------------------------------


def test_losses_against_a_slow_reference(net: Net) -> None:
    batches = make_batches()
    verifier = Verifier(net, batches, per_sequence, sequences=20, budget=100)
    now, expected = verifier.measure(), reference(net, batches)
    assert now.losses.dtype == torch.float64
    torch.testing.assert_close(now.losses, expected[:100], rtol=1e-4, atol=1e-6)
    assert now.loss == pytest.approx(float(expected[:20].mean()), rel=1e-5)
    assert verifier.loss_of() == now.loss


def test_token_weighted_loss(net: Net) -> None:
    batches = make_batches()
    now = Verifier(net, batches, counted, sequences=12, budget=64).measure()
    weights = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4], dtype=torch.float64)
    expected = (reference(net, batches)[:12] * weights).sum() / weights.sum()
    assert now.loss == pytest.approx(float(expected), rel=1e-5)


def test_scalar_losses_make_the_batch_the_unit(net: Net) -> None:
    batches = make_batches(20)
    verifier = Verifier(net, batches, scalar, sequences=4, budget=18)
    now = verifier.measure()
    assert now.losses.numel() == 18
    assert now.loss == pytest.approx(float(reference(net, batches)[:32].mean()), rel=1e-5)
    shift(net, 0.8)
    verdict = verifier.verify(now, 0.0)
    assert verdict.paired
    assert verdict.forward_passes == verdict.paired_sequences == 16


def test_a_sequence_without_tokens_counts_for_nothing(net: Net) -> None:
    def with_empty(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        losses = per_sequence(model, batch).clone()
        losses[0] = math.nan
        return losses, torch.tensor([0] + [5] * 7)

    batches = make_batches()
    now = Verifier(net, batches, with_empty, sequences=8, budget=64).measure()
    assert now.loss == pytest.approx(float(reference(net, batches)[1:8].mean()), rel=1e-5)


# --- identity and direction -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_identical_weights_gain_exactly_nothing(net: Net, loss: Callable[[nn.Module, Any], Any]) -> None:
    verifier = Verifier(net, make_batches(32), loss, sequences=16, budget=32)
    now = verifier.measure()
    verdict = verifier.verify(now, 0.0)
    assert verdict.loss == now.loss
    assert verdict.finite
    assert passed(verdict) == ["proximity"]
    assert verdict.paired_lower == 0.0
    assert verdict.paired_sequences == 32


def test_better_weights_are_accepted_and_worse_ones_rejected(net: Net) -> None:
    verifier = Verifier(net, make_batches(32), per_sequence, sequences=16, budget=256)
    now = verifier.measure()
    shift(net, 0.7)
    better = verifier.verify(now, 0.0)
    assert {"strict", "adaptive", "paired"} <= set(passed(better))
    assert better.paired_lower is not None
    assert 0.0 < better.paired_lower < 4.0
    shift(net, -5.0)
    worse = verifier.verify(now, 0.0)
    assert passed(worse) == []
    assert worse.paired_lower is not None
    assert worse.paired_lower < 0.0


def test_sigma_is_the_margin_of_adaptive(net: Net) -> None:
    verifier = Verifier(net, make_batches(), per_sequence, sequences=16, budget=16)
    now = verifier.measure()
    shift(net, -0.1)
    rise = verifier.verify(now, 0.0).loss - now.loss
    assert rise > 0.0
    assert not verifier.verify(now, 0.9 * rise).adaptive
    assert verifier.verify(now, 1.1 * rise).adaptive


def test_the_paired_gain_is_the_gain_of_the_token_weighted_loss(net: Net) -> None:
    """With gains that are inverse to the tokens all weighted gains are equal: the bound collapses onto L_t - L_hat."""

    def inverse(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        tokens = torch.arange(1, len(batch[1]) + 1)
        return model.get_parameter("out.bias").double() / tokens, tokens

    verifier = Verifier(net, make_batches(), inverse, sequences=16, budget=64)
    now = verifier.measure()
    with torch.no_grad():
        net.out.bias -= 0.25
    verdict = verifier.verify(now, 0.0)
    assert verdict.paired
    assert verdict.paired_lower == pytest.approx(now.loss - verdict.loss, rel=1e-12)


# --- no trace ---------------------------------------------------------------------------------------------------------


@pytest.mark.failure(6)
def test_nothing_of_the_model_or_the_random_streams_changes(net: Net) -> None:
    net.train()
    net.drop.eval()

    def drawing(model: nn.Module, batch: Batch) -> Tensor:
        _ = random.random(), np.random.rand(), torch.rand(1)
        return per_sequence(model, batch)

    def picture() -> list[Any]:
        tensors = [tensor.clone() for tensor in (*net.parameters(), *net.buffers())]
        modes = [module.training for module in net.modules()]
        streams = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
        return [tensors, modes, streams]

    verifier = Verifier(net, make_batches(), drawing, sequences=16, budget=64)
    before = picture()
    now = verifier.measure()
    verifier.loss_of()
    verifier.verify(now, 0.0)
    after = picture()
    assert all(map(torch.equal, before[0], after[0]))
    assert before[1:] == after[1:]
    assert not any(parameter.grad is not None for parameter in net.parameters())
    assert not now.losses.requires_grad


@pytest.mark.failure(9)
def test_a_loss_function_that_fails_leaves_no_trace_either(net: Net) -> None:
    def failing(model: nn.Module, batch: Batch) -> Tensor:
        per_sequence(model, batch)
        raise RuntimeError("out of memory")

    net.train()
    with pytest.raises(RuntimeError, match="out of memory"):
        Verifier(net, make_batches(), failing, sequences=8, budget=8).measure()
    assert net.training
    assert net.calls == 0


# --- cost -------------------------------------------------------------------------------------------------------------


def test_forward_passes_of_each_measurement(net: Net) -> None:
    verifier = Verifier(net, make_batches(), per_sequence, sequences=20, budget=60)
    net.passes = 0
    now = verifier.measure()
    assert net.passes == 8  # 8 batches of 8 cover 60
    verifier.loss_of()
    assert net.passes == 8 + 3
    net.passes = 0
    verdict = verifier.verify(now, 0.0)  # identical weights: open to the end
    assert verdict.forward_passes == net.passes == 8
    assert verdict.paired_sequences == 60


def test_a_clear_answer_costs_the_fixed_set_only(net: Net) -> None:
    verifier = Verifier(net, make_batches(), per_sequence, sequences=40, budget=128)
    now = verifier.measure()
    shift(net, 0.8)
    net.passes = 0
    verdict = verifier.verify(now, 0.0)
    assert verdict.forward_passes == net.passes == 5
    assert verdict.paired
    assert verdict.paired_sequences <= 40


@pytest.mark.parametrize("amount", [-0.5, -0.01, 0.0, 0.01, 0.1, 0.7])
@pytest.mark.parametrize(("sequences", "budget"), [(1, 1), (5, 13), (16, 64), (20, 60)])
def test_the_budget_is_never_exceeded(net: Net, amount: float, sequences: int, budget: int) -> None:
    verifier = Verifier(net, make_batches(), per_sequence, sequences=sequences, budget=budget)
    now = verifier.measure()
    assert now.losses.numel() == budget
    shift(net, amount)
    verdict = verifier.verify(now, 0.0)
    assert verdict.paired_sequences <= budget
    assert verdict.forward_passes <= math.ceil(budget / 8)


def test_a_small_held_out_set_limits_the_budget(net: Net) -> None:
    verifier = Verifier(net, make_batches(3), per_sequence, sequences=8, budget=1000)
    now = verifier.measure()
    assert now.losses.numel() == 24
    assert verifier.verify(now, 0.0).paired_sequences == 24


def test_the_baseline_is_measured_once_and_stays(net: Net) -> None:
    verifier = Verifier(net, make_batches(), per_sequence, sequences=16, budget=32)
    now = verifier.measure()
    kept = now.losses.clone()
    shift(net, 0.5)
    first = verifier.verify(now, 0.0)
    second = verifier.verify(now, 0.0)
    assert torch.equal(now.losses, kept)
    assert (first.loss, first.paired_lower) == (second.loss, second.paired_lower)


# --- fresh batches ----------------------------------------------------------------------------------------------------


def test_a_function_gives_fresh_batches_to_each_baseline_and_the_same_to_its_predictions(net: Net) -> None:
    opened = []

    def fresh() -> Iterator[Batch]:
        opened.append(len(opened))
        yield from make_batches(seed=100 + opened[-1])

    verifier = Verifier(net, fresh, per_sequence, sequences=16, budget=64)
    first, second = verifier.measure(), verifier.measure()
    assert not torch.equal(first.losses, second.losses)
    assert verifier.verify(first, 0.0).loss == first.loss
    assert verifier.verify(second, 0.0).loss == second.loss
    assert opened == [0, 1]


def test_no_more_batches_are_drawn_than_are_needed(net: Net) -> None:
    drawn = []

    def endless() -> Iterator[Batch]:
        while True:
            drawn.append(1)
            yield make_batches(1)[0]

    Verifier(net, endless, per_sequence, sequences=8, budget=24).measure()
    assert len(drawn) == 3
