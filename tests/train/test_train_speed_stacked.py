"""Several seeds as one model: each is what it would be alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _stacked import Stacked
from torch import nn

from leapverify.train.batches import make_batch
from leapverify.train.loop import train_step
from leapverify.train.losses_compiled import causal_attention
from leapverify.train.models import build_model
from leapverify.train.optimizer import build_optimizer

VOCABULARY, SEEDS = 40, 3


def language_model(seed: int, **more: Any) -> nn.Module:
    sizes = {"family": "gpt2", "layers": 2, "hidden": 16, "heads": 2} | more
    return causal_attention(build_model(sizes, seed=seed, vocab_size=VOCABULARY, sequence_length=12))


@pytest.mark.parametrize("more", [{}, {"family": "qwen2", "kv_heads": 1, "tie_embeddings": False}])
@pytest.mark.parametrize("grad_clip", [None, 0.3])
def test_every_seed_goes_as_it_would_alone(more: dict[str, Any], grad_clip: float | None) -> None:
    models = [language_model(seed, **more) for seed in range(SEEDS)]
    with torch.no_grad():
        models[1].get_input_embeddings().weight.mul_(5.0)  # its gradients are clipped by another factor
    stack = Stacked(models, lambda parameters: build_optimizer(parameters, 1.0), grad_clip=grad_clip)
    optimizers = [build_optimizer(model.parameters(), 1.0) for model in models]
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 5):
        tokens = torch.randint(VOCABULARY, (SEEDS, 2, 12), generator=generator)
        found = stack.step(tokens, 1e-3 / step)
        pairs = zip(models, optimizers, tokens, strict=True)
        wanted = [train_step(m, o, make_batch(t), 1e-3 / step, grad_clip=grad_clip) for m, o, t in pairs]
        torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-5, atol=1e-5)
    assert not found.requires_grad
    for seed, model in enumerate(models):
        moved = 0.0
        for name, parameter in model.named_parameters():
            difference = (stack.weights(seed)[name] - parameter.detach()).abs()
            moved = max(
                moved,
                float(
                    (parameter.detach() - dict(language_model(seed, **more).named_parameters())[name].detach())
                    .abs()
                    .max()
                ),
            )
            # Adam divides a gradient by its size: where one is all rounding, so is its step, of at most lr.
            assert float(difference.mean()) < 1e-6
        assert moved > 1e-3


def test_a_stack_of_one_is_the_model() -> None:
    model = language_model(5)
    stack = Stacked([model], lambda parameters: build_optimizer(parameters, 1.0))
    assert all(torch.equal(value, stack.weights(0)[name]) for name, value in model.named_parameters())
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    stack.step(torch.zeros(1, 2, 12, dtype=torch.int64), 1e-2)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters()), "models are left alone"
    assert not torch.equal(stack.weights(0)["transformer.wte.weight"], before["transformer.wte.weight"])


def test_what_is_frozen_stays_as_it_is() -> None:
    models = [language_model(seed) for seed in range(2)]
    for model in models:
        model.get_input_embeddings().weight.requires_grad_(False)
    stack = Stacked(models, lambda parameters: build_optimizer(parameters, 1.0))
    stack.step(torch.zeros(2, 2, 12, dtype=torch.int64), 1e-2)
    for seed, model in enumerate(models):
        moved = {name for name, value in model.named_parameters() if not torch.equal(value, stack.weights(seed)[name])}
        assert "transformer.wte.weight" not in moved
        assert "transformer.h.0.mlp.c_fc.weight" in moved


def test_what_cannot_be_stacked_is_refused() -> None:
    def adamw(parameters: list[Any]) -> torch.optim.Optimizer:
        return build_optimizer(parameters, 1.0)

    with pytest.raises(ValueError, match="0 models leave nothing to stack: give at least one"):
        Stacked([], adamw)
    with pytest.raises(ValueError, match="model 1 has other parameters than model 0: stack models of one"):
        Stacked([language_model(0), language_model(0, layers=1)], adamw)
    with pytest.raises(ValueError, match="model 1 has other parameters than model 0"):
        Stacked([language_model(0), language_model(1).bfloat16()], adamw)
    half = language_model(1)
    half.get_input_embeddings().weight.requires_grad_(False)
    with pytest.raises(ValueError, match="model 1 has other parameters than model 0"):
        Stacked([language_model(0), half], adamw)
    with pytest.raises(ValueError, match=r"model.layers.0.self_attn draws dropout masks"):
        Stacked([language_model(0, family="qwen2", dropout=0.1)], adamw)
    with pytest.raises(ValueError, match=r"transformer.drop draws dropout masks, .* set dropout to 0"):
        Stacked([language_model(0, dropout=0.1)], adamw)
