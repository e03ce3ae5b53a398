import copy

import pytest
import torch
from torch import nn

from leapverify.race.optimizers import OPTIMIZERS, make_optimizers
from leapverify.train.models import ModelSpec, build_model


@pytest.fixture
def model() -> nn.Module:
    spec = ModelSpec(layers=1, hidden=16, heads=2, context=16)
    return build_model(spec, seed=0, vocab_size=64, sequence_length=16)


def held(optimizers: list[torch.optim.Optimizer]) -> list[int]:
    return [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]


def names(model: nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
    here = set(held([optimizer]))
    return {name for name, parameter in model.named_parameters() if id(parameter) in here}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_trainable_parameter_is_held_once_and_at_the_same_rate(name: str, model: nn.Module) -> None:
    model.get_parameter("transformer.h.0.mlp.c_fc.weight").requires_grad_(False)
    optimizers = make_optimizers(name, model, 1e-3)
    assert sorted(held(optimizers)) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert {group["lr"] for optimizer in optimizers for group in optimizer.param_groups} == {1e-3}


def test_muon_takes_the_matrices_between_embedding_and_head(model: nn.Module) -> None:
    muon, adamw = make_optimizers("muon", model, 1e-3)
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    inner = {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
    assert names(model, muon) == {f"transformer.h.0.{name}.weight" for name in inner}
    assert {"transformer.wte.weight", "transformer.wpe.weight"} <= names(model, adamw)


def test_muon_leaves_an_untied_head_alone() -> None:
    spec = ModelSpec(layers=1, hidden=16, heads=2, context=16, tie_embeddings=False)
    model = build_model(spec, seed=0, vocab_size=64, sequence_length=16)
    assert "lm_head.weight" in names(model, make_optimizers("muon", model, 1e-3)[1])


def test_muon_knows_the_head_of_any_module() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    muon, adamw = make_optimizers("muon", model, 1e-3)
    assert names(model, muon) == {"0.weight", "2.weight"}
    assert names(model, adamw) == {"0.bias", "2.bias", "4.weight", "4.bias"}


def test_muon_without_hidden_matrices_is_adamw() -> None:
    (only,) = make_optimizers("muon", nn.Linear(4, 2), 1e-3)
    assert isinstance(only, torch.optim.AdamW)


def test_muon_and_adamw_move_weights_equally_far(model: nn.Module) -> None:
    """Root mean square of an update over eta: about 0.2 for Muon, as AdamW's is in the middle of a training run."""
    before = copy.deepcopy(model)
    optimizers = make_optimizers("muon", model, 1e-2, weight_decay=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    optimizers[0].step()
    for name in names(model, optimizers[0]):
        moved = (model.get_parameter(name) - before.get_parameter(name)).detach()
        assert 0.13 < float(moved.square().mean().sqrt()) / 1e-2 < 0.27


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_lowers_a_loss(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    inputs = torch.randn(64, 4)
    targets = inputs.sum(dim=1, keepdim=True)
    optimizers, losses = make_optimizers(name, model, 2e-2), []
    for _ in range(30):
        loss = (model(inputs) - targets).square().mean()
        losses.append(float(loss.detach()))
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def test_weight_decay_is_decoupled_or_absent(model: nn.Module) -> None:
    decays = {
        name: {g["weight_decay"] for o in make_optimizers(name, model, 1e-3, 0.1) for g in o.param_groups}
        for name in OPTIMIZERS
    }
    assert decays == {"adamw": {0.1}, "muon": {0.1}, "sgd": {0}}


def test_bad_input_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="optimizer 'lion' is unknown: give adamw, muon, sgd"):
        make_optimizers("lion", model, 1e-3)
    with pytest.raises(ValueError, match="no trainable parameter of GPT2LMHeadModel is left"):
        make_optimizers("muon", model.requires_grad_(False), 1e-3)
