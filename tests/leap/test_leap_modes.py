"""Every mode on every kind of model: what is seen, said and promised."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leap_loops import LOOPS, STEPS, fingerprint_of, gpt2, ids, make, next_token
from leapverify.leap.anneal.averages import AnnealMemory
from leapverify.leap.api import LeapVerify
from leapverify.observe import Thresholds


@pytest.mark.parametrize("name", LOOPS)
def test_monitor_sees_similarity_and_regime_on_every_kind_of_model(name: str) -> None:
    loop = make(name)
    leap = loop.leap(mode="monitor", thresholds=Thresholds.fixed(0.5, 0.9), interval=2)
    events = loop.run(STEPS, leap)
    assert events[0].similarity is None
    assert events[0].regime == "unknown"
    assert all(-1.0 <= event.similarity <= 1.0 for event in events[1:])
    assert len({event.similarity for event in events[1:]}) > 1
    assert {event.regime for event in events[1:]} <= {"chaotic", "transition", "stable"}
    assert [event.straightness is not None for event in events][:3] == [False, False, True]


PROBES: dict[str, Any] = {
    "texts": ["one", "another one", "and a third"],
    "ids": ids(5),
    "list": [torch.arange(4), torch.arange(7)],
    "mapping": {"input_ids": ids(6), "attention_mask": (torch.arange(10) < 6).expand(16, 10).long()},
}


class Letters:
    """A tokenizer of sorts."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % 32 for letter in text]


@pytest.mark.parametrize("kind", PROBES)
def test_probes_of_every_form(kind: str) -> None:
    loop = make("gpt2")
    leap = loop.leap(mode="monitor", probes=PROBES[kind], tokenizer=Letters(), heldout=None, loss=None)
    events = loop.run(12, leap)
    assert events[-1].similarity is not None
    assert leap._driver.engine.observer.recognizer.fingerprint().shape[0] == len(
        PROBES[kind]["input_ids"] if kind == "mapping" else PROBES[kind]
    )


def test_shadow_tells_later_what_the_real_steps_did() -> None:
    loop = make("gpt2")
    leap = loop.leap(mode="shadow", policy="fixed", predictor="linear", horizon=3, interval=5)
    events = loop.run(STEPS, leap)
    judged = {event.step: event for event in leap.events if event.predictor and event.status != "actual"}
    actual = [event for event in leap.events if event.status == "actual"]
    assert judged
    assert [event.step for event in actual] == [step + 3 for step in judged if step + 3 <= STEPS]
    for event in actual:
        before = judged[event.step - 3]
        assert (event.loss_now, event.loss_predicted) == (before.loss_now, before.loss_predicted)
        fall = event.loss_now - event.loss_actual
        assert event.gain_fraction == pytest.approx(event.gain / fall) if fall > 0 else event.gain_fraction is None
    assert leap.leapt == 0
    assert events


def test_line_search_and_auto_leap_where_there_is_something_to_gain() -> None:
    for policy in ("line-search", "auto"):
        loop = make("gpt2")
        leap = loop.leap(policy=policy, interval=8)
        loop.run(160, leap)
        assert leap.disabled is None
        assert leap.report()["attempts"] > 0, policy


def test_no_leap_in_the_final_decay_nor_beyond_the_end() -> None:
    loop = make("mlp")
    loop.scheduler = torch.optim.lr_scheduler.LinearLR(loop.optimizer, 1.0, 0.01, total_iters=30)
    leap = loop.leap(policy="fixed", horizon=2, criterion="always")
    loop.run(STEPS, leap)
    assert leap.leapt == 0
    loop = make("mlp")
    leap = loop.leap(policy="fixed", horizon=3, criterion="always", total_steps=20)
    loop.run(14, leap)
    assert leap.leapt > 0
    while leap.effective_step < 20:
        loop.run(1, leap, start=leap.real_step)
    assert leap.effective_step == 20


@pytest.mark.parametrize("moments", ["keep", "reset"])
def test_moments_after_a_leap(moments: str) -> None:
    loop = make("mlp")
    leap = loop.leap(policy="fixed", predictor="linear", horizon=3, criterion="always", moments=moments)
    while not any(event.status == "accepted" for event in loop.run(1, leap, start=leap.real_step)):
        pass
    counts = {float(state["step"]) for state in loop.optimizer.state.values()}
    assert counts == ({float(leap.real_step)} if moments == "keep" else set())


def test_schedule_kept_after_a_leap() -> None:
    loop = make("mlp")
    leap = loop.leap(policy="fixed", predictor="linear", horizon=3, criterion="always", schedule="keep")
    loop.run(STEPS, leap)
    assert leap.leapt > 0
    assert loop.scheduler.last_epoch == leap.real_step == STEPS


def test_two_optimizers_with_two_schedulers() -> None:
    loop = make("gpt2")
    matrices = [
        p for name, p in loop.model.named_parameters() if p.dim() == 2 and "wte" not in name and "wpe" not in name
    ]
    rest = [p for p in loop.model.parameters() if all(p is not each for each in matrices)]
    muon, adamw = torch.optim.Muon(matrices, lr=0.01), torch.optim.AdamW(rest, lr=0.01)
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(each, 200) for each in (muon, adamw)]
    leap = LeapVerify(
        loop.model, [muon, adamw], heldout=loop.heldout, loss=next_token, scheduler=schedulers, interval=4,
        policy="fixed", predictor="linear", horizon=3, criterion="always",
    )  # fmt: skip
    for step in range(STEPS):
        next_token(loop.model, ids(step)).mean().backward()
        for each in (muon, adamw, *schedulers):
            each.step()
        muon.zero_grad(), adamw.zero_grad()
        leap.step()
    assert leap.real_step == STEPS
    assert leap.leapt > 0
    assert {each.last_epoch for each in schedulers} == {leap.effective_step}


def test_memory_is_told_before_it_is_taken() -> None:
    loop = make("gpt2")
    leap = loop.leap(policy="fixed", horizon=3, anneal=AnnealMemory(snapshots=4))
    elements = sum(p.numel() for p in loop.model.parameters())
    assert leap._driver.engine.weights.history.nbytes == 0
    assert f"{3 * 4 * elements / 1e3:.3g} kB for 3 snapshots" in leap.memory
    assert "for averages in cpu" in leap.memory
    loop.run(STEPS, leap)
    assert leap._driver.engine.weights.history.nbytes <= 3 * 4 * elements


@pytest.mark.failure(6)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_history_of_half_the_memory_restores_exactly_and_predicts_nearly(dtype: torch.dtype) -> None:
    plain = make("gpt2")
    plain.run(STEPS)
    loop = make("gpt2")
    leap = loop.leap(mode="live", policy="fixed", horizon=3, criterion="never", history_dtype=dtype)
    loop.run(STEPS, leap)
    assert leap.report()["attempts"] > 0
    assert fingerprint_of(loop) == fingerprint_of(plain)
    assert "for an exact copy during an attempt" in leap.memory


def test_lora_moves_and_holds_the_adapters_alone() -> None:
    pytest.importorskip("peft")
    loop = make("lora")
    leap = loop.leap(policy="fixed", horizon=3, criterion="always")
    assert leap._driver.engine.weights.parameters
    assert all("lora_" in name for name in leap._driver.engine.weights.parameters)
    frozen = {n: p.clone() for n, p in loop.model.named_parameters() if not p.requires_grad}
    loop.run(STEPS, leap)
    assert leap.leapt > 0
    assert all(torch.equal(frozen[n], p) for n, p in loop.model.named_parameters() if n in frozen)


def test_the_budget_is_held_where_nothing_is_to_be_gained() -> None:
    loop = make("gpt2")
    for group in loop.optimizer.param_groups:
        group["lr"] = 0.0
    loop.scheduler = torch.optim.lr_scheduler.ConstantLR(loop.optimizer, factor=1.0)
    leap = loop.leap(policy="auto", budget=0.01, step_tokens=3 * 160, anneal=None)
    loop.run(400, leap)
    report = leap.report()
    assert report["accepted"] == 0
    assert report["overhead"] <= 0.0125


@pytest.mark.slow
def test_gpt2_names_stay_plain_under_compile() -> None:
    model = gpt2()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.AdamW(compiled.parameters())
    leap = LeapVerify(compiled, optimizer, mode="monitor", probes=ids(3))
    assert list(leap._driver.engine.weights.parameters) == [name for name, _ in model.named_parameters()]
