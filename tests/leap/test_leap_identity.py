"""The transaction: whatever the engine looks at or tries, only an accepted leap leaves a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from leap_loops import LOOPS, STEPS, fingerprint_of, make
from leapverify.leap.api import LeapVerify

MODES: dict[str, dict[str, Any]] = {
    "monitor": {"mode": "monitor"},
    "monitor with averages": {"mode": "monitor", "anneal": True},
    "shadow": {"mode": "shadow", "policy": "auto", "anneal": True},
    "shadow, always": {"mode": "shadow", "policy": "fixed", "predictor": "adam", "horizon": 3, "criterion": "always"},
    "live, nothing accepted": {"mode": "live", "policy": "fixed", "horizon": 8, "criterion": "never"},
    "live, line search": {"mode": "live", "policy": "line-search", "criterion": "never"},
}


@pytest.mark.failure(6, 7)
@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("mode", MODES)
def test_trajectory_is_bit_identical_to_a_run_without_the_tool(name: str, mode: str) -> None:
    if name == "lora":
        pytest.importorskip("peft")
    plain = make(name)
    plain.run(STEPS)
    wanted = fingerprint_of(plain)
    watched = make(name)
    leap = watched.leap(**MODES[mode])
    events = watched.run(STEPS, leap)
    assert leap.disabled is None
    assert len(events) >= STEPS // 4 // watched.accumulate - 1
    if mode not in ("monitor", "monitor with averages"):
        assert leap.report()["attempts"] > 0
    assert fingerprint_of(watched) == wanted


@pytest.mark.failure(6)
@pytest.mark.parametrize("name", ["mlp", "gpt2", "scaled"])
@pytest.mark.parametrize("predictor", ["plp", "ema-posthoc", "anderson", "fast-forward", "subspace", "introspection"])
def test_predictors_that_read_more_than_snapshots_leave_no_trace_either(name: str, predictor: str) -> None:
    plain = make(name)
    plain.run(STEPS)
    watched = make(name)
    leap = watched.leap(policy="fixed", predictor=predictor, horizon=3, criterion="never")
    watched.run(STEPS, leap)
    assert leap.disabled is None
    assert leap.report()["attempts"] > 0
    assert fingerprint_of(watched) == fingerprint_of(plain)


@pytest.mark.parametrize("name", LOOPS)
def test_an_accepted_leap_moves_the_weights_the_schedule_and_the_count(name: str) -> None:
    loop = make(name)
    leap = loop.leap(policy="fixed", predictor="linear", horizon=3, criterion="always")
    before = None
    for step in range(STEPS):
        before = fingerprint_of(loop)
        if any(event.status == "accepted" for event in loop.run(1, leap, start=step)):
            break
    assert leap.leapt == 3
    assert leap.effective_step == leap.real_step + 3
    turns = (
        leap.effective_step if name != "scaled" else step + 1 + 3
    )  # that loop turns its schedule at skipped steps too
    assert loop.scheduler.last_epoch == turns
    assert fingerprint_of(loop) != before
    loop.run(STEPS, leap, start=STEPS)
    assert leap.disabled is None


@pytest.mark.failure(12)
def test_steps_are_counted_once_per_real_step_under_accumulation_and_skipping() -> None:
    loop = make("accumulating")
    leap = loop.leap(mode="monitor")
    loop.run(STEPS, leap)
    assert leap.real_step == STEPS // 3
    loop = make("scaled")
    leap = loop.leap(mode="monitor")
    loop.run(STEPS, leap)
    assert leap.effective_step == STEPS - 2


@pytest.mark.slow
def test_a_compiled_model_is_not_compiled_again_by_leaps() -> None:
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    loop = make("home-made")
    loop.model = torch.compile(loop.model, backend=counter)
    leap = loop.leap(policy="fixed", horizon=2, criterion="always")
    loop.run(16, leap)
    settled = counter.frame_count
    loop.run(STEPS, leap, start=16)
    assert leap.report()["accepted"] > 2
    assert counter.frame_count == settled


def test_the_hooked_form_acts_like_the_called_one_and_takes_its_hook_out() -> None:
    called, hooked = make("mlp"), make("mlp")
    first = called.leap(policy="fixed", predictor="linear", horizon=3, criterion="always", schedule="keep")
    called.run(STEPS, first)
    make("mlp")
    hooks = len(hooked.optimizer._optimizer_step_post_hooks)
    with hooked.leap(policy="fixed", predictor="linear", horizon=3, criterion="always", schedule="keep") as second:
        hooked.run(STEPS)
    assert len(hooked.optimizer._optimizer_step_post_hooks) == hooks
    assert second.report()["accepted"] == first.report()["accepted"] > 0
    for a, b in zip(called.model.parameters(), hooked.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.failure(9)
def test_exceptions_of_the_loop_pass_through_the_context() -> None:
    loop = make("mlp")
    with pytest.raises(RuntimeError, match="of the user's"), loop.leap(mode="monitor"):
        raise RuntimeError("of the user's own")
    assert not loop.optimizer._optimizer_step_post_hooks


@pytest.mark.failure(12)
def test_steps_that_a_fused_optimizer_skips_by_itself_are_not_counted() -> None:
    loop = make("scaled")
    loop.optimizer = torch.optim.AdamW(loop.model.parameters(), lr=0.01, fused=True)
    loop.scheduler = torch.optim.lr_scheduler.ConstantLR(loop.optimizer)
    leap = loop.leap(mode="monitor")
    events = loop.run(STEPS, leap)
    own = {int(state["step"]) for state in loop.optimizer.state.values()}
    assert own == {STEPS - 2}
    assert max(event.step for event in events) <= STEPS - 2
    assert leap.real_step == STEPS - 2


@pytest.mark.failure(12)
@pytest.mark.parametrize("scaled", [False, True])
def test_a_fused_optimizer_without_a_count_of_its_own_is_counted(scaled: bool) -> None:
    loop = make("scaled" if scaled else "mlp")
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.01, fused=True)
    loop.scheduler = torch.optim.lr_scheduler.ConstantLR(loop.optimizer)
    leap = loop.leap(mode="monitor")
    events = loop.run(STEPS, leap)
    assert leap.real_step == STEPS - 2 * scaled
    assert [event.step for event in events] == list(range(4, leap.real_step + 1, 4))


@pytest.mark.failure(12, 13)
def test_a_fused_optimizer_is_counted_while_all_that_it_trained_first_is_frozen() -> None:
    loop = make("mlp")
    loop.optimizer = torch.optim.AdamW(loop.model.parameters(), lr=0.01, fused=True)
    loop.scheduler = torch.optim.lr_scheduler.ConstantLR(loop.optimizer)
    leap = loop.leap(mode="monitor")
    loop.run(8, leap)
    loop.model.requires_grad_(False)
    loop.model.body[4] = nn.Linear(16, 3)
    loop.optimizer.add_param_group({"params": list(loop.model.body[4].parameters())})
    events = loop.run(8, leap, start=8)
    assert [event.step for event in events] == [12, 16]


@pytest.mark.failure(12)
def test_the_last_of_several_optimizers_is_counted_however_seldom_a_fused_one_before_it_steps() -> None:
    loop = make("mlp")
    first, *others = loop.model.parameters()
    seldom = torch.optim.AdamW([first], lr=0.01, fused=True)
    loop.optimizer = torch.optim.SGD(others, lr=0.01)
    loop.scheduler = torch.optim.lr_scheduler.ConstantLR(loop.optimizer)
    leap = LeapVerify(loop.model, [seldom, loop.optimizer], heldout=loop.heldout, mode="monitor", interval=4)
    events = []
    for turn in range(4):
        events += loop.run(3, leap, start=4 * turn)
        seldom.step()
        events += loop.run(1, leap, start=4 * turn + 3)
    assert leap.real_step == 16
    assert [event.step for event in events] == [4, 8, 12, 16]
