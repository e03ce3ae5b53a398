import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from leapverify.train import losses as losses_module
from leapverify.train.batches import Batch, make_batch
from leapverify.train.losses import mean_loss, sequence_losses
from leapverify.train.models import build_model

VOCABULARY = 40


class Plain(nn.Module):
    """A model that is none of transformers': tokens to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, 8)
        self.head = nn.Linear(8, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(tokens).cumsum(dim=1))


def language_model(**spec: object) -> Callable[[], nn.Module]:
    return lambda: build_model(
        {"layers": 2, "hidden": 16, "heads": 2} | spec, seed=1, vocab_size=VOCABULARY, sequence_length=10
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "gpt2": language_model(family="gpt2"),
    "qwen2": language_model(family="qwen2", tie_embeddings=False),
    "plain": Plain,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return MODELS[request.param]()


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(1, VOCABULARY, (4, 10), generator=generator)
    mask = torch.arange(10) < torch.tensor([10, 7, 2, 1]).unsqueeze(1)
    return make_batch(tokens.masked_fill(~mask, 0), mask)


def reference(model: nn.Module, batch: Batch, count_padding: bool) -> tuple[list[float], list[int]]:
    """Token by token in float64, each prediction from its own prefix without any padding behind it."""
    model = model.double()
    losses, counts = [], []
    for row, real in zip(batch.tokens, batch.mask, strict=True):
        nats = []
        for position in range(1, len(row)):
            if real[position] or count_padding:
                found = model(row[:position].unsqueeze(0))
                logits = getattr(found, "logits", found)[0, -1]
                nats.append(math.log(sum(math.exp(value) for value in logits.tolist())) - logits[row[position]].item())
        losses.append(sum(nats) / max(1, len(nats)))
        counts.append(len(nats))
    model.float()
    return losses, counts


@pytest.mark.parametrize("count_padding", [False, True])
def test_losses_equal_the_slow_reference(model: nn.Module, batch: Batch, count_padding: bool) -> None:
    wanted, counts = reference(model, batch, count_padding)
    found, tokens = sequence_losses(model, batch, count_padding=count_padding)
    assert tokens.tolist() == counts
    assert counts == ([9] * 4 if count_padding else [9, 6, 1, 0])
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count_padding", [False, True])
def test_the_mean_weighs_every_token_alike(model: nn.Module, batch: Batch, count_padding: bool) -> None:
    losses, tokens = sequence_losses(model, batch, count_padding=count_padding)
    wanted = (losses * tokens).sum() / tokens.sum()
    torch.testing.assert_close(mean_loss(model, batch, count_padding=count_padding), wanted)


def test_what_is_padding_does_not_matter(model: nn.Module, batch: Batch) -> None:
    other = make_batch(batch.tokens.masked_fill(~batch.mask, 17), batch.mask)
    torch.testing.assert_close(sequence_losses(model, batch)[0], sequence_losses(model, other)[0])


def test_sequences_do_not_see_one_another(model: nn.Module, batch: Batch) -> None:
    together = sequence_losses(model, batch)[0]
    for row in range(len(batch)):
        alone = make_batch(batch.tokens[row : row + 1], batch.mask[row : row + 1])
        torch.testing.assert_close(sequence_losses(model, alone)[0][0], together[row])


def test_parts_change_neither_losses_nor_gradients(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS["gpt2"]()
    found = []
    for largest in (1 << 26, 3 * VOCABULARY, 1):
        monkeypatch.setattr(losses_module, "LARGEST_LOGITS", largest)
        model.zero_grad()
        loss = mean_loss(model, batch)
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b)


def test_no_more_logits_are_made_than_are_counted(batch: Batch) -> None:
    model = MODELS["gpt2"]()
    rows = []
    model.get_output_embeddings().register_forward_hook(  # type: ignore[operator]
        lambda _, inputs, output: rows.append(output.numel() // VOCABULARY)
    )
    sequence_losses(model, batch)
    assert rows == [9 + 6 + 1]


def test_losses_are_float32_under_autocast(model: nn.Module, batch: Batch) -> None:
    exact = sequence_losses(model, batch)[0]
    rough = sequence_losses(model, batch, autocast=torch.bfloat16)[0]
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05)
