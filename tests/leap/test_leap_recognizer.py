"""What the recognizer makes of probes of any form, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leap_loops import HomeMade, Mlp, fingerprint_of, ids, make
from leapverify.leap.api import LeapVerify
from leapverify.leap.recognizer import Recognizer, checked_recognizer, first_of, probes_of
from leapverify.observe import Thresholds


class Body(nn.Module):
    """What is inside of the models below."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))


class FromDict(Body):
    """Takes the whole batch."""

    def forward(self, batch: Any) -> Tensor:
        return self.body(batch["x"])


class FromObject(Body):
    """Takes the whole batch."""

    def forward(self, batch: Any) -> Tensor:
        return self.body(batch.x)


class Scaled(Body):
    """Takes a number that is no tensor."""

    def forward(self, x: Tensor, scale: float) -> Tensor:
        assert isinstance(scale, float)
        return self.body(x) * scale


def _batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 4, generator=generator)
    return x, x.argmax(1) % 3


CASES: dict[str, tuple[Any, Any, Any]] = {
    "mapping": (
        FromDict,
        lambda x, y: {"x": x, "y": y},
        lambda m, b: F.cross_entropy(m(b), b["y"], reduction="none"),
    ),
    "object": (
        FromObject,
        lambda x, y: SimpleNamespace(x=x, y=y),
        lambda m, b: F.cross_entropy(m(b), b.y, reduction="none"),
    ),
    "number": (
        Scaled,
        lambda x, y: (x, 2.0, y),
        lambda m, b: F.cross_entropy(m(b[0], b[1]), b[2], reduction="none"),
    ),
    "nested": (
        FromDict,
        lambda x, y: ({"x": x}, {"y": y}),
        lambda m, b: F.cross_entropy(m(b[0]), b[1]["y"], reduction="none"),
    ),
}


@pytest.mark.parametrize("given", [False, True], ids=["heldout", "probes"])
@pytest.mark.parametrize("kind", CASES)
def test_any_batch_that_the_loss_takes_serves(kind: str, given: bool) -> None:
    cls, wrap, loss = CASES[kind]
    model = cls()
    heldout = [wrap(*_batch(i)) for i in range(4)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    leap = LeapVerify(
        model, optimizer, heldout=heldout, loss=loss, mode="monitor", interval=1, budget=1.0, clock="tokens",
        step_tokens=1e6, probes=wrap(*_batch(9)) if given else None,
    )  # fmt: skip
    events = []
    for i in range(3):
        loss(model, wrap(*_batch(50 + i))).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        events.append(leap.step())
    assert leap.disabled is None
    assert all(event is not None for event in events)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_types_are_observed(dtype: torch.dtype) -> None:
    model = Mlp().to(dtype)
    x = torch.randn(8, 12)
    recognizer = Recognizer(model, x, Thresholds.online())
    assert recognizer.look().similarity is None
    assert recognizer.look().similarity == pytest.approx(1.0)


def test_token_ids_that_the_model_takes_otherwise_are_passed_by_the_loss() -> None:
    class Named(nn.Module):
        """Takes its ids in a mapping."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = HomeMade()

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.inner(batch["ids"])

    model, batch = Named(), (ids(0), ids(1))
    run = lambda m, b: m({"ids": b[0]})  # noqa: E731
    make_one = lambda some: Recognizer(model, some, Thresholds.online(), run=run, run_first=True)  # noqa: E731
    found = make_one(batch).like(checked_recognizer(make_one, batch))
    identity = found.fingerprint.identity
    found.take()
    assert found.fingerprint.identity == identity
    assert found.fingerprint().shape == (16, 16)


def test_a_model_that_does_not_take_one_example_is_looked_at_with_all() -> None:
    class Squeezes(Body):
        """Loses its first dimension with a batch of one."""

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).squeeze(0).transpose(0, 1).contiguous()

    model = Squeezes()
    recognizer = checked_recognizer(lambda some: Recognizer(model, some, Thresholds.online()), torch.randn(6, 4))
    assert recognizer.positions == 6


def test_what_fails_at_the_first_look_is_one_sentence() -> None:
    class Fails(Body):
        """Raises what a model may raise."""

        def forward(self, x: Tensor) -> Tensor:
            raise IndexError("out of\nrange")

    model = Fails()
    with pytest.raises(ValueError, match=r"^[^\n]*IndexError: out of range[^\n]*probes=[^\n]*$"):
        checked_recognizer(lambda some: Recognizer(model, some, Thresholds.online()), torch.randn(6, 4))

    def broken(some: Any) -> Recognizer:
        raise TypeError("of no kind")

    with pytest.raises(ValueError, match=r"failed \(TypeError: of no kind\): pass probes=.*layer="):
        checked_recognizer(broken, torch.randn(6, 4))


def test_a_model_that_writes_parameters_in_eval_mode_is_refused() -> None:
    class Clips(Body):
        """Keeps its weights small."""

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.body[0].weight.clamp_(-0.1, 0.1)
            return self.body(x)

    model = Clips()
    with pytest.raises(ValueError, match=r"parameter body\.0\.weight was written"):
        LeapVerify(model, torch.optim.SGD(model.parameters(), lr=0.1), probes=torch.randn(6, 4), mode="monitor")


@pytest.mark.parametrize("mode", ["monitor", "shadow"])
def test_embeddings_that_renormalise_themselves_are_left_as_they_were(mode: str) -> None:
    def renormed() -> Any:
        loop = make("home-made")
        loop.model.embed.max_norm = 0.5
        loop.model.head.weight = nn.Parameter(loop.model.head.weight.detach().clone())
        loop.__post_init__()
        return loop

    plain, watched = renormed(), renormed()
    plain.run(16)
    make("home-made")
    watched = renormed()
    leap = watched.leap(mode=mode)
    watched.run(16, leap)
    assert leap.disabled is None
    assert fingerprint_of(watched) == fingerprint_of(plain)


def test_probes_of_a_heldout_batch_keep_its_form() -> None:
    batch = {"x": torch.randn(100, 4), "y": torch.zeros(100), "scale": torch.ones(3), "name": "a"}
    assert {name: getattr(value, "shape", value) for name, value in probes_of(batch).items()} == {
        "x": (64, 4), "y": (64,), "scale": (3,), "name": "a",
    }  # fmt: skip
    assert first_of(batch)["x"].shape == (1, 4)
    assert first_of(["a", "b"]) == ["a"]
    assert len(first_of([torch.arange(3), torch.arange(3)])) == 1
    assert first_of((torch.randn(5, 2), torch.zeros(5)))[1].shape == (1,)
