"""Nothing in training or in the losses waits for the device; batches by their step, in whatever order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from leapverify.observe import Fingerprinter
from leapverify.train.batches import Batch, Batches, Windows, batch_indices, make_batch
from leapverify.train.loop import train_step
from leapverify.train.losses import mean_loss, sequence_losses
from leapverify.train.losses_compiled import CAUSAL, Losses, causal_attention
from leapverify.train.models import build_model
from leapverify.train.optimizer import build_optimizer

VOCABULARY = 40
WAITING = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "unique", "masked_select")
FAMILIES = ("gpt2", "qwen2")


class Waits(TorchDispatchMode):
    """Notes operations whose result the host must wait for: values read, sizes that depend on values, copies to it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.count += 1
        name = function.overloadpacket.__name__
        to_host = "copy" in name and str((named or {}).get("device")) == "cpu"
        if name in WAITING or to_host:
            self.names.append(name)
        return function(*arguments, **(named or {}))


def language_model(family: str, **more: Any) -> nn.Module:
    sizes = {"layers": 2, "hidden": 16, "heads": 2} | more
    model = build_model({"family": family, **sizes}, seed=1, vocab_size=VOCABULARY, sequence_length=16)
    model.set_attn_implementation("sdpa")
    return model


def some_batch(padded: bool, seed: int = 3) -> Batch:
    tokens = torch.randint(1, VOCABULARY, (4, 10), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(10) < torch.tensor([10, 7, 2, 1]).unsqueeze(1)
    return make_batch(tokens.masked_fill(~mask, 0), mask) if padded else make_batch(tokens)


@pytest.mark.parametrize("grad_clip", [None, 1.0])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_step_and_no_loss_waits_for_the_device(family: str, padded: bool, grad_clip: float | None) -> None:
    model = causal_attention(language_model(family, dropout=0.1))
    optimizer = build_optimizer(model.parameters(), 1e-3)
    batch, total = some_batch(padded), torch.zeros(())
    with Waits() as waits:
        for step in range(3):
            total += train_step(model, optimizer, batch, 1e-3 / (step + 1), grad_clip=grad_clip)
        with torch.no_grad():
            mean_loss(model, batch)
            sequence_losses(model, batch)
    assert waits.count > 300
    assert waits.names == []


def test_what_waits_is_noticed() -> None:
    with Waits() as waits:
        bool(torch.ones(3).sum() > 2)
        torch.ones(3).nonzero()
        torch.ones(3).to("cpu", torch.float64)
    assert waits.names == ["_local_scalar_dense", "nonzero", "_to_copy"]
    with Waits() as waits:
        mean_loss(language_model("gpt2"), some_batch(False))
    assert waits.names == ["_local_scalar_dense"], "transformers asks for packed rows in every plain forward pass"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forward_and_a_backward_pass_exist_without_values(family: str) -> None:
    """On `meta` there is nothing to be read: whatever asks for a value fails."""
    model = causal_attention(language_model(family)).to("meta")
    batch = some_batch(True).to("meta")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
    assert train_step(model, optimizer, batch, 1e-3).device.type == "meta"
    assert {tensor.device.type for tensor in sequence_losses(model, batch)} == {"meta"}


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_without_a_mask_gives_the_same_numbers(family: str) -> None:
    plain, causal = language_model(family), causal_attention(language_model(family))
    assert causal.config._attn_implementation == CAUSAL
    for batch in (some_batch(False), some_batch(True)):
        assert torch.equal(sequence_losses(plain, batch)[0], sequence_losses(causal, batch)[0])
    probes = [torch.arange(1, length) for length in (3, 9, 5, 12)]
    for options in ({}, {"masked": False}, {"layer": "lm_head", "pooling": "last"}):
        wanted, found = (Fingerprinter(model, probes, **options) for model in (plain, causal))
        assert found.positions == wanted.positions
        assert torch.equal(found(), wanted())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_attention_gets_no_mask_either(family: str) -> None:
    masks = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        calls = [node for node in graph.graph.nodes if "scaled_dot_product" in str(node.target)]
        masks.extend((node.kwargs["attn_mask"], node.kwargs["is_causal"]) for node in calls)
        return graph

    model, batch = causal_attention(language_model(family)), some_batch(False)
    compiled = torch.compile(mean_loss, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(model, batch), mean_loss(model, batch))
    assert masks == [(None, True)] * 2


def test_other_attentions_and_other_models_stay() -> None:
    model = language_model("gpt2")
    model.set_attn_implementation("eager")
    assert causal_attention(model).config._attn_implementation == "eager"
    other = nn.Linear(2, 2)
    assert causal_attention(other) is other


def windows_of(sequences: int, padded: bool) -> Windows:
    ends = np.cumsum(np.resize([6, 3, 5] if padded else [6], sequences))
    return Windows(np.arange(1, ends[-1] + 1), ends - np.resize([6, 3, 5] if padded else [6], sequences), ends, 6, 0)


def same(a: Batch, b: Batch) -> bool:
    return len(a.tensors) == len(b.tensors) and all(
        torch.equal(one, other) for one, other in zip(a.tensors, b.tensors, strict=True)
    )


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=20)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(0, 99), st.booleans())
def test_batches_are_those_of_their_steps_in_any_order(device: str, steps: list[int], seed: int, padded: bool) -> None:
    windows = windows_of(7, padded)
    batches = Batches(windows, 3, seed, device)
    held = [(step, batches(step)) for start in steps for step in (start, start + 1, start + 2)]
    for step, batch in held:
        assert batch.tokens.device.type == device
        assert same(batch.to("cpu"), windows.batch(batch_indices(7, 3, step, seed)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_not_waited_for() -> None:
    model = causal_attention(language_model("gpt2")).to("cuda")
    optimizer = build_optimizer(model.parameters(), 1e-3, device="cuda")
    batches, losses = Batches(windows_of(7, True), 3, 0, "cuda"), Losses(autocast=torch.bfloat16)
    train_step(model, optimizer, batches(1), 1e-3, loss=losses.mean)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(2, 6):
            train_step(model, optimizer, batches(step), 1e-3, loss=losses.mean)
    finally:
        torch.cuda.set_sync_debug_mode("default")
