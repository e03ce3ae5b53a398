import math
from functools import partial

import pytest
import torch
from torch import nn

from leapverify.train.batches import Batch, make_batch
from leapverify.train.loop import train_step
from leapverify.train.losses import mean_loss
from leapverify.train.models import ModelSpec, build_model
from leapverify.train.optimizer import build_optimizer


def small_model() -> nn.Module:
    spec = ModelSpec(layers=1, hidden=16, heads=2)
    return build_model(spec, seed=1, vocab_size=30, sequence_length=8)


@pytest.fixture
def batch() -> Batch:
    return make_batch(torch.randint(0, 30, (3, 8), generator=torch.Generator().manual_seed(5)))


def test_a_step_is_one_step_of_adamw_on_the_clipped_gradient(batch: Batch) -> None:
    model, other = small_model(), small_model()
    loss = train_step(model, build_optimizer(model.parameters(), 1.0), batch, 1e-2, grad_clip=0.1)

    wanted = mean_loss(other, batch)
    wanted.backward()
    gradients = [parameter.grad for parameter in other.parameters() if parameter.grad is not None]
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
    assert norm > 0.1
    for gradient in gradients:
        gradient.mul_(0.1 / (norm + 1e-6))
    torch.optim.AdamW(other.parameters(), lr=1e-2, weight_decay=0.01).step()

    assert not loss.requires_grad
    torch.testing.assert_close(loss, wanted.detach())
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


def test_no_clipping_leaves_the_gradient(batch: Batch) -> None:
    model, other = small_model(), small_model()
    optimizer = build_optimizer(model.parameters(), 1.0)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.extend(p.grad.clone() for p in model.parameters()))
    train_step(model, optimizer, batch, 1e-2, grad_clip=None)
    mean_loss(other, batch).backward()
    for found, parameter in zip(seen, other.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)


def test_no_gradient_outlives_its_step(batch: Batch) -> None:
    model = small_model()
    train_step(model, build_optimizer(model.parameters(), 1.0), batch, 1e-2)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_loss_given_is_the_one_that_is_lowered(batch: Batch) -> None:
    model, other = small_model(), small_model()
    found = train_step(
        model,
        build_optimizer(model.parameters(), 1.0),
        batch,
        1e-2,
        loss=lambda m, b: 3 * mean_loss(m, b),
        grad_clip=None,
    )
    wanted = 3 * mean_loss(other, batch)
    wanted.backward()
    torch.optim.AdamW(other.parameters(), lr=1e-2, weight_decay=0.01).step()
    torch.testing.assert_close(found, wanted.detach())
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


def test_every_group_gets_the_learning_rate(batch: Batch) -> None:
    model = small_model()
    first, *rest = model.parameters()
    optimizer = torch.optim.AdamW([{"params": [first], "lr": 1.0}, {"params": rest, "lr": 2.0}])
    train_step(model, optimizer, batch, 3e-4)
    assert [group["lr"] for group in optimizer.param_groups] == [3e-4, 3e-4]


def test_a_learning_rate_of_zero_moves_nothing(batch: Batch) -> None:
    model, other = small_model(), small_model()
    train_step(model, build_optimizer(model.parameters(), 1.0), batch, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_training_learns(batch: Batch) -> None:
    model = small_model()
    optimizer = build_optimizer(model.parameters(), 1.0)
    losses = [float(train_step(model, optimizer, batch, 1e-2)) for _ in range(60)]
    assert losses[0] == pytest.approx(math.log(30), rel=0.1)
    assert losses[-1] < losses[0] / 4


def test_autocast_trains_float32_weights(batch: Batch) -> None:
    model = small_model()
    loss = train_step(
        model, build_optimizer(model.parameters(), 1.0), batch, 1e-2, loss=partial(mean_loss, autocast=torch.bfloat16)
    )
    assert loss.dtype == torch.float32
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_an_optimizer_for_frozen_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter requires a gradient: unfreeze at least one"):
        build_optimizer(small_model().requires_grad_(False).parameters(), 1e-3)
