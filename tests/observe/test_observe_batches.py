"""Fingerprints of models whose inputs are no token ids."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from leap_loops import HomeMade, Mlp, Vision, ids
from leapverify.observe.batches import BatchFingerprinter, arguments_of


def test_mlp_gives_the_input_of_its_head() -> None:
    model, x = Mlp(), torch.randn(5, 12)
    found = BatchFingerprinter(model, x)()
    model.eval()
    wanted = model.body[3](model.body[2](model.body[1](model.body[0](x))))
    assert torch.allclose(found, wanted)
    assert found.shape == (5, 16)


def test_a_single_layer_gives_its_output() -> None:
    model = nn.Linear(4, 2)
    x = torch.randn(3, 4)
    assert torch.equal(BatchFingerprinter(nn.Sequential(model), x)(), model(x).detach())
    assert torch.equal(BatchFingerprinter(model, x)(), model(x).detach())


def test_an_area_is_averaged() -> None:
    model, x = Vision(), torch.randn(4, 1, 6, 6)
    found = BatchFingerprinter(model, x, layer="features.0")()
    assert torch.allclose(found, model.features[0](x).mean((2, 3)), atol=1e-6)


def test_padding_stays_out_whatever_stands_in_it() -> None:
    class Named(nn.Module):
        """Takes what a tokenizer gives, by name."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = HomeMade()

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return self.inner(input_ids)

    model, tokens = Named(), ids(0, 4)
    mask = (torch.arange(10) < 6).expand(4, 10).long()
    other = torch.where(mask.bool(), tokens, 31 - tokens)
    first, second = (
        BatchFingerprinter(model, {"input_ids": each, "attention_mask": mask, "labels": each})()
        for each in (tokens, other)
    )
    assert torch.equal(first, second)


def test_it_leaves_no_trace() -> None:
    model, x = Mlp().train(), torch.randn(5, 12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    BatchFingerprinter(model, x)()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(stream, torch.get_rng_state())
    assert all(module.training for module in model.modules())


def test_what_forward_takes_of_a_batch() -> None:
    x, y = torch.randn(2, 12), torch.zeros(2)
    assert len(arguments_of(Mlp(), (x, y))[0]) == 1
    assert len(arguments_of(nn.Bilinear(12, 12, 1), (x, x, y))[0]) == 2
    assert set(arguments_of(Mlp(), {"x": x, "y": y})[1]) == {"x"}
    with pytest.raises(ValueError, match="holds no tensor"):
        arguments_of(Mlp(), "text")


def test_identity_follows_batch_and_layer() -> None:
    model, x = Mlp(), torch.randn(5, 12)
    same = BatchFingerprinter(model, x.clone()).identity
    assert BatchFingerprinter(model, x).identity == same
    assert BatchFingerprinter(model, x + 1).identity != same
    assert BatchFingerprinter(model, x, layer="body.0").identity != same


def test_a_layer_without_a_row_per_example_is_refused() -> None:
    class Folds(nn.Module):
        """Folds its examples into one."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(3, 3), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x).mean(0, keepdim=True))

    with pytest.raises(ValueError, match="one row per example"):
        BatchFingerprinter(Folds(), torch.randn(4, 3))()
