"""The leap over the decay, through the engine: asked for at any moment, without disturbing the run."""

from __future__ import annotations

import pytest
import torch

from leap_loops import STEPS, fingerprint_of, make
from leapverify.leap.anneal.averages import AnnealMemory

MEMORY = AnnealMemory(snapshots=6, every=2)


@pytest.mark.parametrize("name", ["mlp", "gpt2", "lora", "vision"])
def test_annealing_swaps_in_and_back_bit_exactly(name: str) -> None:
    plain = make(name)
    plain.run(STEPS)
    wanted = fingerprint_of(plain)
    loop = make(name)
    leap = loop.leap(mode="monitor", anneal=MEMORY)
    loop.run(STEPS, leap)
    with leap.annealed() as found:
        inside = dict(leap._driver.engine.weights.parameters)
        assert all(torch.equal(inside[key], value) for key, value in found.weights.items())
    assert fingerprint_of(loop) == wanted
    with pytest.raises(ZeroDivisionError), leap.annealed():
        _ = 1 / 0
    assert fingerprint_of(loop) == wanted


def test_an_average_of_a_noisy_constant_rate_run_is_accepted_and_better_on_other_data() -> None:
    loop = make("gpt2")
    for group in loop.optimizer.param_groups:
        group["lr"] = 0.03
    loop.scheduler = torch.optim.lr_scheduler.ConstantLR(loop.optimizer, factor=1.0)
    leap = loop.leap(mode="monitor", anneal=AnnealMemory(snapshots=12, every=2), interval=20)
    loop.run(200, leap)
    found = leap.anneal()
    assert found.accepted
    assert found.gain is not None
    assert found.gain > 0
    assert found.loss < found.raw_loss
    logged = [event for event in leap.events if event.annealed_loss is not None]
    assert logged
    assert all(event.annealed_loss <= event.raw_loss for event in logged)
    assert all(event.raw_loss is not None for event in logged)
    before = [p.detach().clone() for p in loop.model.parameters()]
    final = leap.finish()
    assert final.accepted
    assert any(not torch.equal(a, b) for a, b in zip(before, loop.model.parameters(), strict=True))


def test_annealing_with_emas_alone() -> None:
    loop = make("gpt2")
    leap = loop.leap(mode="monitor", anneal=AnnealMemory(snapshots=0, every=1, emas=(0.8, 0.9)), interval=20)
    loop.run(60, leap)
    found = leap.anneal()
    candidates = leap._driver.engine.annealing.store.candidates()
    assert [(each.kind, each.shape, each.decay) for each in candidates] == [
        ("ema", "exponential", 0.8),
        ("ema", "exponential", 0.9),
    ]
    assert found.raw_loss is not None
    assert "averages" in leap.memory


def test_annealing_needs_what_it_needs() -> None:
    leap = make("mlp").leap(mode="monitor")
    with pytest.raises(ValueError, match="pass anneal=True, heldout and loss"):
        leap.anneal()
