"""Held-out losses and gradients of candidates: right, cheap to count, and without a trace."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leapverify.trajectory.context import Gradients, Selection
from leapverify.verify.selection import GRADIENT_PASSES, BatchGradients, HeldoutSelection, standing_in


class Net(nn.Module):
    """Something with dropout, a running mean, a frozen tensor and a parameter that no loss reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.last = nn.Linear(4, 1)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.first(x).tanh()))) * self.frozen


def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Squared errors, of so many tokens each."""
    x, tokens = batch
    return model(x).squeeze(1).square(), tokens


def mean(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return losses(model, batch)[0].mean()


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().train()


def batches(count: int, size: int = 5) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(size, 3, generator=generator), torch.arange(1.0, size + 1)) for _ in range(count)]


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [each for each in model.parameters() if each.requires_grad]


def traces(model: nn.Module) -> list[Tensor]:
    """Everything that looking must leave alone."""
    modes = torch.tensor([module.training for module in model.modules()])
    grads = [each.grad.clone() for each in model.parameters() if each.grad is not None]
    streams = [torch.get_rng_state(), torch.tensor(np.random.get_state()[1]), torch.tensor(random.getstate()[1])]
    return [*(each.detach().clone() for each in model.state_dict().values()), modes, *grads, *streams]


def unchanged(before: list[Tensor], model: nn.Module) -> bool:
    after = traces(model)
    return len(after) == len(before) and all(map(torch.equal, before, after))


def candidate(model: nn.Module) -> list[Tensor]:
    return [each.detach() * 0.5 + 0.1 for each in trained(model)]


def reference(model: nn.Module, held: list[tuple[Tensor, Tensor]]) -> float:
    """The token-weighted mean in float64, without any of the machinery."""
    slow = Net().double().eval()
    slow.load_state_dict(model.state_dict())
    total = weight = 0.0
    for x, tokens in held:
        found, _ = losses(slow, (x.double(), tokens))
        total, weight = total + float((found.detach() * tokens).sum()), weight + float(tokens.sum())
    return total / weight


def test_both_are_what_predictors_ask_for(net):
    assert isinstance(HeldoutSelection(net, trained(net), losses, batches(1)), Selection)
    assert isinstance(BatchGradients(net, trained(net), mean, lambda _: batches(1)[0]), Gradients)


def test_the_loss_is_the_mean_over_all_tokens_of_all_batches(net):
    held = batches(3)
    selection = HeldoutSelection(net, trained(net), losses, held)
    assert selection.loss(trained(net)) == pytest.approx(reference(net, held), rel=1e-6)
    other = candidate(net)
    found = selection.loss(other)
    with standing_in(trained(net), other):
        assert found == pytest.approx(reference(net, held), rel=1e-6)
    assert found != selection.loss(trained(net))


def test_the_models_own_parameters_are_measured_in_place_and_nothing_is_copied(net, monkeypatch):
    from leapverify.verify import selection as module

    copied: list[int] = []
    real = module.copy_
    monkeypatch.setattr(module, "copy_", lambda out, source: (copied.append(len(out)), real(out, source)))
    selection = HeldoutSelection(net, trained(net), losses, batches(2))
    versions = [each._version for each in trained(net)]
    selection.loss(trained(net))
    selection.loss([each.detach() for each in trained(net)])
    assert set(copied) == {0}
    assert [each._version for each in trained(net)] == versions
    mixed = [*(each.detach() for each in trained(net)[:-1]), torch.zeros(1)]
    selection.loss(mixed)
    assert copied[-2:] == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_looking_leaves_no_trace(net, dtype):
    held = batches(2)
    mean(net, held[0]).backward()  # gradients that are waiting for an optimizer
    before = traces(net)
    selection = HeldoutSelection(net, trained(net), losses, held)
    gradients = BatchGradients(net, trained(net), mean, held.__getitem__)
    other = [each.to(dtype) for each in candidate(net)]
    kept = [each.clone() for each in other]
    for weights in (trained(net), other):
        selection.loss(weights)
        gradients.gradient(weights, 1)
        assert unchanged(before, net)
    assert all(map(torch.equal, other, kept))


def test_weights_that_overlap_the_parameters_are_read_before_they_are_written():
    first, second = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(2, 3))
    turned = first.detach().view(3, 2).t()
    for weights in ([second.detach(), first.detach()], [turned, second], [second, turned]):
        expected, before = [each.clone() for each in weights], [first.detach().clone(), second.detach().clone()]
        with standing_in([first, second], weights):
            assert all(map(torch.equal, [first, second], expected))
        assert all(map(torch.equal, [first, second], before))


def test_a_loss_that_fails_leaves_the_weights_as_they_were(net):
    def broken(model: nn.Module, batch: object) -> Tensor:
        raise RuntimeError("no")

    before = traces(net)
    with pytest.raises(RuntimeError, match="no"):
        HeldoutSelection(net, trained(net), broken, batches(1)).loss(candidate(net))
    with pytest.raises(RuntimeError, match="no"):
        BatchGradients(net, trained(net), broken, lambda _: None).gradient(candidate(net), 0)
    assert unchanged(before, net)


def test_gradients_are_those_of_the_batch_without_dropout_and_repeat_to_the_bit(net):
    held = batches(3)
    gradients = BatchGradients(net, trained(net), mean, held.__getitem__)
    loss, found = gradients.gradient(trained(net), 2)
    found = [each.clone() for each in found]
    slow = Net().double().eval()
    slow.load_state_dict(net.state_dict())
    wanted = mean(slow, (held[2][0].double(), held[2][1]))
    wanted.backward()
    assert loss.shape == ()
    assert not loss.requires_grad
    assert float(loss) == pytest.approx(wanted.item(), rel=1e-6)
    for each, expected in zip(found, trained(slow), strict=True):
        exact = torch.zeros_like(expected) if expected.grad is None else expected.grad
        assert each.dtype == torch.float32
        torch.testing.assert_close(each.double(), exact, rtol=1e-5, atol=1e-7)
    torch.rand(3)  # wherever the streams stand
    again, same = gradients.gradient(trained(net), 2)
    assert torch.equal(again, loss)
    assert all(map(torch.equal, same, found))
    assert not torch.equal(gradients.gradient(trained(net), 0)[0], loss)


def test_gradients_of_half_precision_weights_come_in_float32():
    model = nn.Linear(3, 1).bfloat16()
    gradients = BatchGradients(model, list(model.parameters()), lambda m, x: m(x).square().mean(), lambda _: X)
    assert {each.dtype for each in gradients.gradient(list(model.parameters()), 0)[1]} == {torch.float32}


X = torch.ones(4, 3, dtype=torch.bfloat16)


def test_gradients_of_a_sparse_embedding_come_dense():
    found = {}
    for sparse in (False, True):
        model = nn.Embedding(5, 2, sparse=sparse, _weight=torch.arange(10.0).view(5, 2))
        gradients = BatchGradients(model, [model.weight], lambda m, x: m(x).square().mean(), lambda _: IDS)
        (found[sparse],) = gradients.gradient([model.weight], 0)[1]
    assert not found[True].is_sparse
    assert torch.equal(found[True], found[False])


IDS = torch.tensor([0, 3, 3])


def test_an_autocast_around_it_keeps_no_copies_of_other_weights(net):
    held = batches(1)
    selection = HeldoutSelection(net, trained(net), losses, held)
    gradients = BatchGradients(net, trained(net), mean, held.__getitem__)
    other = candidate(net)

    def found(weights: list[Tensor]) -> tuple[float, float]:
        return selection.loss(weights), gradients.gradient(weights, 0)[0].item()

    alone = []
    for weights in (trained(net), other):
        with torch.autocast("cpu", torch.bfloat16):
            alone.append(found(weights))
    assert alone[0] != alone[1]
    with torch.autocast("cpu", torch.bfloat16):
        before = net.first(held[0][0])
        assert [found(trained(net)), found(other)] == alone
        after = net.first(held[0][0])
    assert torch.equal(after, before)
    assert after.requires_grad


def test_gradients_of_some_parameters_ask_nothing_of_the_others(net):
    gradients = BatchGradients(net, [net.last.weight], mean, batches(1).__getitem__)
    _, found = gradients.gradient([net.last.weight], 0)
    assert [each.shape for each in found] == [net.last.weight.shape]
    assert net.first.weight.grad is None


def test_positions_are_counted_and_may_be_set_back():
    model = nn.Embedding(10, 1)

    def loss(model: nn.Module, tokens: Tensor) -> Tensor:
        return model(tokens).square().mean()

    tokens = torch.zeros(4, 6, dtype=torch.long)
    selection = HeldoutSelection(model, list(model.parameters()), loss, [tokens, tokens[:2]])
    gradients = BatchGradients(model, list(model.parameters()), loss, lambda _: tokens)
    for _ in range(2):
        selection.loss(list(model.parameters()))
        gradients.gradient(list(model.parameters()), 0)
    assert selection.positions == 2 * 36
    assert gradients.positions == 2 * GRADIENT_PASSES * 24
    selection.positions = gradients.positions = 0
    selection.loss(list(model.parameters()))
    assert (selection.positions, gradients.positions) == (36, 0)


def test_nothing_to_choose_by_and_other_shapes_are_refused(net):
    with pytest.raises(ValueError, match="0 batches"):
        HeldoutSelection(net, trained(net), losses, [])
    selection = HeldoutSelection(net, trained(net), losses, batches(1))
    with pytest.raises(ValueError, match="the candidate has 1 tensors where"):
        selection.loss([torch.zeros(1)])
    with pytest.raises(ValueError, match="the candidate has shape"):
        selection.loss([torch.zeros(1) for _ in trained(net)])
