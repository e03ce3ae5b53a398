"""Compiled losses: the numbers of the eager ones, compiled once, whatever is written into the weights in between."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from leapverify.core.undisturbed import undisturbed
from leapverify.observe import Fingerprinter
from leapverify.train.batches import Batch, make_batch
from leapverify.train.loop import train_step
from leapverify.train.losses import mean_loss, sequence_losses
from leapverify.train.losses_compiled import Losses, Mode, causal_attention
from leapverify.train.models import build_model
from leapverify.train.optimizer import build_optimizer

VOCABULARY, ROWS, LENGTH = 61, 4, 12

# torch's own compiler imports what torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def language_model(**more: Any) -> nn.Module:
    sizes = {"family": "gpt2", "layers": 1, "hidden": 32, "heads": 2} | more
    return causal_attention(build_model(sizes, seed=1, vocab_size=VOCABULARY, sequence_length=LENGTH))


def some_batch(seed: int, padded: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCABULARY, (ROWS, LENGTH), generator=generator)
    mask = torch.arange(LENGTH) < torch.tensor([LENGTH, 7, 2, 1]).unsqueeze(1)
    return make_batch(tokens.masked_fill(~mask, 0), mask) if padded else make_batch(tokens)


def gradients(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    loss.backward()
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad(set_to_none=True)
    return found


def close(found: Any, wanted: Any, rounding: dict[str, float]) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, **rounding)


# float32: sums in another order. bfloat16 has 8 bits: the compiler rounds less often than eager code, so losses of
# about ln 61 = 4 may differ by 2^-8 of that, and gradients by some of their own last bits.
ROUNDING = {
    None: ({"rtol": 2e-6, "atol": 2e-6}, {"rtol": 1e-4, "atol": 1e-6}),
    torch.bfloat16: ({"rtol": 4e-3, "atol": 0.0}, {"rtol": 4e-2, "atol": 2e-3}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("autocast", "mode"), [(None, "reduce-overhead"), (torch.bfloat16, "default")])
def test_compiled_losses_and_gradients_are_the_eager_ones(autocast: torch.dtype | None, mode: Mode) -> None:
    compiled, eager = Losses(autocast=autocast, mode=mode), Losses(autocast=autocast)
    model = language_model()
    losses, slopes = ROUNDING[autocast]
    for batch in (some_batch(1), some_batch(2, padded=True)):
        with undisturbed(model):
            found, wanted = compiled.sequences(model, batch), eager.sequences(model, batch)
        assert found[1].tolist() == wanted[1].tolist()
        assert found[1].dtype == wanted[1].dtype
        torch.testing.assert_close(found[0], wanted[0], **losses)
        found_mean, wanted_mean = compiled.mean(model, batch), eager.mean(model, batch)
        torch.testing.assert_close(found_mean, wanted_mean, **losses)
        close(gradients(model, found_mean), gradients(model, wanted_mean), slopes)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_training_compiles_once_and_follows_the_eager_run(device: str) -> None:
    model, other = language_model().to(device), language_model().to(device)
    compiled = Losses(mode="reduce-overhead")
    runs = [(model, compiled.mean), (other, mean_loss)]
    optimizers = [build_optimizer(each.parameters(), 1.0, device=device) for each, _ in runs]
    held = some_batch(9).to(device)
    fingerprint = Fingerprinter(model, [torch.arange(1, 9), torch.arange(2, 7)], layer="transformer.h.0.mlp")

    def both_step(step: int) -> None:
        found, wanted = (
            train_step(each, optimizer, some_batch(step).to(device), 3e-3, loss=loss)
            for (each, loss), optimizer in zip(runs, optimizers, strict=True)
        )
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)

    def verified() -> torch.Tensor:
        with undisturbed(model):
            return compiled.sequences(model, held)[0]

    both_step(1)
    first = verified()
    kept = first.clone()
    before = fingerprint()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in (2, 3):
            both_step(step)
            verified()
        weights = [parameter.detach().clone() for parameter in model.parameters()]
        close(weights, [parameter.detach() for parameter in other.parameters()], {"rtol": 1e-4, "atol": 1e-5})
        assert torch.equal(first, kept), "a later pass wrote over what an earlier one returned"

        # A prediction is written into the weights, measured and fingerprinted, and taken back.
        now = verified()
        with torch.no_grad():
            torch._foreach_mul_(list(model.parameters()), 1.3)
        with undisturbed(model):
            wanted = sequence_losses(model, held)[0]
        torch.testing.assert_close(verified(), wanted, rtol=1e-5, atol=1e-5)
        assert (verified() - now).abs().min() > 1e-3
        after = fingerprint()
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), weights)
        assert torch.equal(verified(), now)
        both_step(4)

        # A copy of the model, as the Lyapunov shadow is one.
        twin = copy.deepcopy(model)
        compiled.mean(twin, held).backward()
        torch.testing.assert_close(compiled.mean(twin, held), mean_loss(twin, held), rtol=1e-5, atol=1e-5)
        with pytest.raises(torch._dynamo.exc.RecompileError):
            compiled.mean(model, Batch(held.tokens[:2], held.mask[:2], None))
    assert (after - before).abs().max() > 0.01, "the hook has seen nothing"


@pytest.mark.slow
def test_dropout_is_drawn_anew_and_from_the_run_s_own_stream() -> None:
    model, losses, batch = language_model(dropout=0.5), Losses(mode="default"), some_batch(1)
    torch.manual_seed(4)
    state = torch.get_rng_state()
    first, second = (float(losses.mean(model, batch).detach()) for _ in range(2))
    torch.set_rng_state(state)
    assert float(losses.mean(model, batch).detach()) == first != second


def test_off_is_the_eager_functions_themselves() -> None:
    model, batch = language_model(), some_batch(2, padded=True)
    for count_padding in (False, True):
        losses = Losses(count_padding=count_padding)
        assert torch.equal(losses.mean(model, batch), mean_loss(model, batch, count_padding=count_padding))
        found, wanted = losses.sequences(model, batch), sequence_losses(model, batch, count_padding=count_padding)
        assert all(map(torch.equal, found, wanted))


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="compile mode 'fast' is unknown: use off, default or reduce-overhead"):
        Losses(mode="fast")  # type: ignore[arg-type]
