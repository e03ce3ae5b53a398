"""What a sample says of one step, against steps whose fate is known."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leapverify.train import update_survival as survival
from leapverify.train.batches import Batch, make_batch
from leapverify.train.loop import train_step
from leapverify.train.models import ModelSpec, build_model
from leapverify.train.optimizer import build_optimizer
from leapverify.train.update_survival import Survival, UpdateSample

KINDS = {
    "float32": (torch.float32, "nearest"),
    "nearest": (torch.bfloat16, "nearest"),
    "stochastic": (torch.bfloat16, "stochastic"),
}
RATE = 5e-5


def made(kind: str, hidden: int = 32) -> tuple[nn.Module, torch.optim.AdamW]:
    dtype, rounding = KINDS[kind]
    spec = ModelSpec(layers=1, hidden=hidden, heads=2, dropout=0.1)
    model = build_model(spec, seed=1, vocab_size=60, sequence_length=16, dtype=dtype)
    return model, build_optimizer(model.parameters(), RATE, rounding=rounding, seed=4)  # type: ignore[arg-type]


def batch(step: int) -> Batch:
    return make_batch(torch.randint(0, 60, (4, 16), generator=torch.Generator().manual_seed(step)))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, lr: float = RATE) -> None:
    for step in range(1, steps + 1):
        train_step(model, optimizer, batch(step), lr)


def watched(kind: str, steps: int = 20, lr: float = RATE, **options: int) -> Survival:
    """What becomes of one step after so many others."""
    torch.manual_seed(0)
    model, optimizer = made(kind)
    train(model, optimizer, steps, lr)
    sample = UpdateSample(optimizer, model.parameters(), **options)
    with sample:
        train_step(model, optimizer, batch(99), lr)
    return sample.read()


# What is said of the three kinds of weights


def test_float32_weights_keep_nearly_every_update() -> None:
    found = watched("float32")
    assert found.share is not None
    assert found.share > 0.99
    assert found.projection == pytest.approx(1, abs=1e-3)


def test_bfloat16_weights_lose_most_of_a_small_update_to_nearest_rounding() -> None:
    nearest, stochastic = watched("nearest"), watched("stochastic")
    assert nearest.share is not None
    assert nearest.projection is not None
    assert stochastic.share is not None
    assert nearest.share < 0.5
    assert nearest.projection < 0.8
    # Hardly more of them change, but those that do make up for the rest.
    assert stochastic.share < 0.7
    assert stochastic.projection == pytest.approx(1, abs=0.1)


def test_a_large_rate_brings_the_updates_of_bfloat16_weights_through() -> None:
    small, large = watched("nearest"), watched("nearest", lr=5e-2)
    assert small.share is not None
    assert large.share is not None
    assert small.share < 0.5 < 0.9 < large.share


# Exactness


def test_u_is_the_change_that_float32_weights_make() -> None:
    """The optimizer in float32 moves its weights by u, up to the rounding of theta."""
    model, optimizer = made("float32")
    train(model, optimizer, 5, 1e-3)
    parameters = list(model.parameters())
    before = [each.detach().double() for each in parameters]
    samples = [UpdateSample(optimizer, [parameter]) for parameter in parameters]
    with contextlib.ExitStack() as stack:
        for sample in samples:
            stack.enter_context(sample)
        train_step(model, optimizer, batch(7), 1e-3)
    for parameter, theta, sample in zip(parameters, before, samples, strict=True):
        change = (parameter.detach().double() - theta).flatten()
        _, _, along, square = sample._sums[0]
        # |change - u|^2, from the sums that were taken, against half a spacing and a few roundings in between.
        gap = float(square - 2 * along + change @ change)
        assert gap <= float((2.0**-23 * theta.abs()).square().sum() + (1e-5 * change).square().sum()) + 1e-18
        assert float(change @ change) > 1e3 * gap


def test_below_half_a_spacing_nothing_survives_and_above_everything_does() -> None:
    """The sample's share under nearest rounding is the share of updates above half the distance between numbers."""
    theta = torch.linspace(1, 1.99, 128).bfloat16().unique().repeat(50)  # 2^-7 apart: half of it is 2^-8
    weight = nn.Parameter(theta.clone())
    optimizer = build_optimizer([weight], 1.0, betas=(0.9, 0.999), weight_decay=0.0)
    sizes = torch.logspace(-12, -5, len(theta), base=2.0)
    sizes = sizes[(sizes * 2**8 - 1).abs() > 0.02]  # clear of the threshold by more than the moments' rounding
    sizes = torch.cat([sizes, sizes.new_full((len(theta) - len(sizes),), 2.0**-12)])
    # The first step of AdamW is lr sign(g) for eps far below g; eps = 1 makes it lr g / (g + 1), of any size.
    optimizer.param_groups[0]["eps"] = 1.0
    weight.grad = (-sizes / (1 - sizes)).bfloat16()
    sample = UpdateSample(optimizer, [weight])
    with sample:
        optimizer.step()
    found, above = sample.read(), sizes > 2.0**-8
    assert found.elements == len(theta)
    assert found.share == pytest.approx(float(above.double().mean()), abs=1e-12)
    assert torch.equal(weight.detach() != theta, above)
    assert 0.2 < float(above.double().mean()) < 0.8


def test_several_groups_each_by_its_own_constants() -> None:
    weights = [nn.Parameter(torch.linspace(0.1, 1, 40)) for _ in range(2)]
    groups = [{"params": [weights[0]], "weight_decay": 0.5}, {"params": [weights[1]], "betas": (0.5, 0.6), "lr": 1e-2}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    sample = UpdateSample(optimizer, weights)
    for step in range(3):
        for weight in weights:
            weight.grad = torch.sin(torch.arange(40.0) + step)
        with sample:
            optimizer.step()
    found = sample.read()
    assert found == Survival(1.0, pytest.approx(1, abs=1e-5), 80)  # type: ignore[arg-type]


# Which elements


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_speaks_for_the_whole(kind: str) -> None:
    whole, part = watched(kind), watched(kind, elements=4000, seed=5)
    assert whole.elements > 10_000 > part.elements > 3000
    assert whole.share is not None
    assert part.share == pytest.approx(whole.share, abs=5 * 0.5 / part.elements**0.5)
    assert whole.projection is not None
    assert part.projection == pytest.approx(whole.projection, abs=0.2)


def test_the_draw_is_uniform_over_elements_and_follows_from_the_seed() -> None:
    weights = [nn.Parameter(torch.zeros(shape)) for shape in ((300, 200), (0,), (20_000,), ())]

    def draw(seed: int) -> list[Tensor]:
        return survival._draw(weights, 10_000, seed)

    first, again, other = draw(1), draw(1), draw(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    counts = [len(each) for each in first]
    # Of 10,000 draws from 80,001 elements 9,400 are different ones.
    assert sum(counts) == pytest.approx(80_001 * (1 - (1 - 1 / 80_001) ** 10_000), abs=100)
    assert counts[0] / sum(counts) == pytest.approx(0.75, abs=0.02)
    for index, weight in zip(first, weights, strict=True):
        assert len(index.unique()) == len(index)
        assert not len(index) or 0 <= int(index.min()) <= int(index.max()) < weight.numel()
    assert float(first[0].double().mean()) == pytest.approx(30_000, rel=0.02)


def test_strides_do_not_matter() -> None:
    shares = []
    for turned in (False, True):
        start = torch.linspace(1, 3, 60).view(6, 10).bfloat16()
        weight = nn.Parameter(start.t().contiguous().t() if turned else start)
        optimizer = build_optimizer([weight], 5e-3)  # above half a spacing below 2, below it above
        weight.grad = torch.empty_like(weight).copy_(torch.sin(torch.arange(60.0)).view(6, 10))
        sample = UpdateSample(optimizer, [weight], elements=30, seed=2)
        with sample:
            optimizer.step()
        shares.append(sample.read())
    assert shares[0] == shares[1]
    assert 0 < (shares[0].share or 0) < 1


def test_what_had_no_gradient_is_not_counted_though_its_moments_are_there() -> None:
    weights = [nn.Parameter(torch.ones(10)) for _ in range(2)]
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    sample = UpdateSample(optimizer, weights)
    for gradients in ((1.0, 1.0), (1.0, None)):
        for weight, value in zip(weights, gradients, strict=True):
            weight.grad = None if value is None else torch.full_like(weight, value)
        with sample:
            optimizer.step()
    assert sample.read() == Survival(1.0, pytest.approx(1, abs=1e-5), 10)  # type: ignore[arg-type]


def test_nothing_meant_is_nothing_said() -> None:
    weight = nn.Parameter(torch.ones(10))
    optimizer = torch.optim.AdamW([weight], lr=0.0)
    sample = UpdateSample(optimizer, [weight])
    with sample:
        optimizer.step()  # no gradient at all
    assert sample.read() == Survival(None, None, 0)
    weight.grad = torch.ones_like(weight)
    with sample:
        optimizer.step()  # a rate of 0
    assert sample.read() == Survival(None, None, 0)
    optimizer.param_groups[0]["lr"] = 1.0
    weight.grad = torch.full_like(weight, torch.nan)
    with sample:
        optimizer.step()
    assert sample.read() == Survival(None, None, 10)


# No disturbance


@pytest.mark.failure(7)
@pytest.mark.parametrize("kind", KINDS)
def test_watching_changes_no_bit_and_moves_no_random_stream(kind: str) -> None:
    ends = []
    for watching in (False, True):
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)
        model, optimizer = made(kind)
        train(model, optimizer, 2)
        if watching:
            sample = UpdateSample(optimizer, model.parameters(), elements=500)
            with sample:
                train_step(model, optimizer, batch(3), RATE)
            sample.read()
        else:
            train_step(model, optimizer, batch(3), RATE)
        train_step(model, optimizer, batch(4), RATE)
        state = [value for p in model.parameters() for value in optimizer.state[p].values()]
        streams = random.getstate(), str(np.random.get_state(legacy=False))
        ends.append(([*model.parameters(), *state, torch.get_rng_state()], streams))
    assert all(torch.equal(a, b) for a, b in zip(ends[0][0], ends[1][0], strict=True))
    assert ends[0][1] == ends[1][1]


def test_one_host_transfer_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = made("nearest")
    sample = UpdateSample(optimizer, model.parameters())
    reads: list[str] = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__"):
        original = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda self, f=original, n=name: (reads.append(n), f(self))[1])
    with sample:
        optimizer.step()
    reads.clear()
    train_step(model, optimizer, batch(1), RATE)
    alone = len(reads)
    reads.clear()
    with sample:
        train_step(model, optimizer, batch(2), RATE)
    assert len(reads) == alone
    reads.clear()
    sample.read()
    assert reads == ["tolist"]


# Refusals


def test_reading_needs_a_step() -> None:
    model, optimizer = made("float32")
    sample = UpdateSample(optimizer, model.parameters())
    with pytest.raises(ValueError, match="no step was watched: take one inside `with sample:` before reading it"):
        sample.read()
    with pytest.raises(RuntimeError, match="burnt"), sample:
        raise RuntimeError("burnt")
    with pytest.raises(ValueError, match="no step was watched"):
        sample.read()


def test_what_cannot_be_sampled_is_refused() -> None:
    weight = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"optimizer SGD is not torch\.optim\.AdamW: its update is not known here"):
        UpdateSample(torch.optim.SGD([weight], lr=1.0), [weight])
    with pytest.raises(ValueError, match="amsgrad=True of AdamW is another update: build the optimizer with amsgrad=F"):
        UpdateSample(torch.optim.AdamW([weight], amsgrad=True), [weight])
    with pytest.raises(ValueError, match="does not hold the parameter at position 1: sample those it was built with"):
        UpdateSample(torch.optim.AdamW([weight]), [weight, nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match="a sample of 0 of 3 elements is empty: sample 1 of 1 at least"):
        UpdateSample(torch.optim.AdamW([weight]), [weight], elements=0)
