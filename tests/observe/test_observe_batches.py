"""Fingerprints of models whose inputs are no token ids."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leap_loops import HomeMade, Mlp, Vision, ids
from leapverify.core.batch_tree import cut, mapped, rows_of, same_form, tensors_in
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


class Inner(nn.Module):
    """A small network that the others take their batch apart for."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))


class TakesDict(Inner):
    """One argument, a mapping."""

    def forward(self, batch: Any) -> Tensor:
        return self.body(batch["x"])


class TakesObject(Inner):
    """One argument, an object."""

    def forward(self, batch: Any) -> Tensor:
        return self.body(batch.x)


@dataclass(frozen=True, slots=True)
class Frozen:
    """A batch with fields."""

    x: Tensor
    y: Tensor


X = torch.linspace(-1.0, 1.0, 20).view(5, 4)
WHOLE: dict[str, tuple[type[Inner], Any]] = {
    "mapping": (TakesDict, {"x": X, "y": torch.zeros(5), "name": "a"}),
    "plain object": (TakesObject, SimpleNamespace(x=X, y=torch.zeros(5))),
    "dataclass": (TakesObject, Frozen(X, torch.zeros(5))),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_batch_is_passed_as_one_argument_where_the_model_takes_it_so(kind: str) -> None:
    cls, batch = WHOLE[kind]
    model = cls()
    found = BatchFingerprinter(model, batch)()
    assert torch.equal(found, model.body[1](model.body[0](X)).detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_inputs_take_the_type_of_the_weights_where_they_have_to(dtype: torch.dtype) -> None:
    model = Mlp().to(dtype).eval()
    x = torch.randn(5, 12)
    found = BatchFingerprinter(model, x)()
    assert torch.equal(found, model.body[:4](x.to(dtype)).detach().float())


def test_the_way_is_found_once() -> None:
    calls = []

    class Counted(TakesDict):
        """Counts its calls."""

        def forward(self, *batch: Any, **named: Any) -> Tensor:
            calls.append(1)
            return super().forward(*batch, **named)

    fingerprint = BatchFingerprinter(Counted(), {"batch": X, "x": X})
    first = fingerprint()
    assert len(calls) == 2
    assert torch.equal(fingerprint(), first)
    assert len(calls) == 3


def test_a_loss_function_is_the_last_way_or_the_first() -> None:
    class Twice(Inner):
        """Takes an argument that no batch holds."""

        def forward(self, x: Tensor, *, scale: float) -> Tensor:
            return self.body(x) * scale

    calls = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        calls.append(1)
        return model(batch[0], scale=2.0).sum()

    model = Twice()
    found = BatchFingerprinter(model, (X, torch.zeros(5)), run=loss)()
    assert torch.equal(found, model.body[:2](X).detach())
    assert len(calls) == 1
    plain = Mlp()
    seen = lambda m, batch: (calls.append(1), m(batch))  # noqa: E731
    x = torch.randn(3, 12)
    assert torch.equal(BatchFingerprinter(plain, x, run=seen, run_first=True)(), BatchFingerprinter(plain, x)())
    assert len(calls) == 2


def test_what_is_drawn_at_random_is_drawn_the_same_each_time() -> None:
    class Noisy(Inner):
        """Adds noise to its input, as a diffusion model does."""

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x + torch.randn_like(x))

    fingerprint = BatchFingerprinter(Noisy(), X)
    first = fingerprint()
    torch.randn(7)
    stream = torch.get_rng_state()
    assert torch.equal(fingerprint(), first)
    assert torch.equal(torch.get_rng_state(), stream)


def test_no_way_at_all_is_one_sentence_that_names_the_causes() -> None:
    class Refuses(Inner):
        """Takes nothing."""

        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("one\ntwo")

    with pytest.raises(ValueError, match=r"^the model takes the probes in no way .* KeyError: 'one.*pass probes= that"):
        BatchFingerprinter(Refuses(), {"x": X})()


def test_the_default_layer_is_no_part_of_a_weight() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    nn.utils.parametrizations.weight_norm(model[2])
    assert BatchFingerprinter(model, X).layer == "1"
    bare = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    nn.utils.parametrizations.weight_norm(bare[1])
    assert BatchFingerprinter(bare, X).layer == "input of 1"


def test_complex_activations_give_both_parts() -> None:
    class Waves(nn.Module):
        """A layer of complex numbers."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 3, dtype=torch.complex64)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x.to(torch.complex64)).abs()

    model = Waves()
    found = BatchFingerprinter(model, X, layer="first")()
    wanted = model.first(X.to(torch.complex64)).detach()
    assert torch.equal(found, torch.cat([wanted.real, wanted.imag], dim=1))


def test_forms_are_kept_and_cut() -> None:
    batch = {"x": X, "inner": [torch.ones(5, 2), (torch.ones(3), "a")], "n": 3}
    short = cut(batch, 2)
    assert [tuple(each.shape) for each in tensors_in(short)] == [(2, 4), (2, 2), (3,)]
    assert rows_of(batch) == 5
    assert same_form(batch, short)
    assert not same_form(batch, {"x": X})
    assert not same_form((X,), (X.long(),))
    assert cut(Frozen(X, torch.zeros(5)), 2).y.shape == (2,)
    assert cut(["a", "b", "c"], 2) == ["a", "b"]
    assert rows_of(["a", "b"]) == 2
    circle = SimpleNamespace(x=X, more=[])
    circle.more.append(circle)
    assert tensors_in(circle)[0] is X
    assert mapped(circle, torch.clone).x is not X
