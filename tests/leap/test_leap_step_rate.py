"""Which schedulers move once per optimizer step: leaps are no steps of theirs, and neither is taking one back."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ChainedScheduler, ConstantLR, ExponentialLR, ReduceLROnPlateau

from leapverify.leap.schedule.step_rate import StepRate


def optimizer_of() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.5)


class Counted:
    """A scheduler of which only the count is read."""

    def __init__(self) -> None:
        self.last_epoch = 0

    def step(self) -> None:
        self.last_epoch += 1


def test_only_what_moves_once_a_step_moves(caplog: pytest.LogCaptureFixture) -> None:
    steps, epochs, uncounted = Counted(), Counted(), SimpleNamespace(step=lambda: None)
    rate = StepRate([steps, epochs, uncounted])
    assert rate.moving == []
    with caplog.at_level(logging.WARNING):
        for checkpoint in range(1, 4):
            steps.last_epoch += 10
            epochs.last_epoch += 1
            rate.look(10 * checkpoint)
            assert rate.moving == [steps, uncounted]
    assert [record.getMessage() for record in caplog.records] == [
        "leapverify: 1 of 3 schedulers did not move once per optimizer step and are taken as constant; leaps do not "
        "move them on"
    ]


def test_a_chain_is_counted_by_what_is_inside() -> None:
    optimizer = optimizer_of()
    chain = ChainedScheduler([ConstantLR(optimizer, 0.5, total_iters=7), ExponentialLR(optimizer, 0.95)])
    rate = StepRate([chain])
    optimizer.step()
    chain.step()
    rate.look(10)
    assert rate.moving == []


def test_more_processes_step_the_schedule_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Counted()
    wrapped = SimpleNamespace(scheduler=inner, step_with_optimizer=True, split_batches=False)
    state: Any = SimpleNamespace(AcceleratorState=lambda: SimpleNamespace(num_processes=4))
    monkeypatch.setitem(__import__("sys").modules, "accelerate.state", state)
    rate = StepRate([wrapped])
    inner.last_epoch = 40
    rate.look(10)
    assert rate.moving == [wrapped]


@pytest.mark.parametrize("between", [False, True])
def test_a_leap_is_no_step_and_taking_it_back_is_none_either(between: bool) -> None:
    scheduler = Counted()
    rate = StepRate([scheduler])
    scheduler.last_epoch = 10
    rate.look(10)
    scheduler.last_epoch += 300
    rate.leapt()
    assert rate.state_dict() == {"counts": [310], "real": 10}
    scheduler.last_epoch += 1
    if between:
        rate.look(11)
        assert rate.moving == [scheduler]
    scheduler.last_epoch -= 300
    rate.undone()
    rate.undone()
    assert rate.state_dict()["counts"] == [11 if between else 10]
    scheduler.last_epoch += 9
    rate.look(20)
    assert rate.moving == [scheduler]


def test_it_goes_on_from_its_state() -> None:
    scheduler = Counted()
    rate = StepRate([scheduler, ReduceLROnPlateau(optimizer_of())])
    scheduler.last_epoch = 10
    rate.look(10)
    state = rate.state_dict()
    again = StepRate([scheduler, ReduceLROnPlateau(optimizer_of())])
    again.load_state_dict(state)
    scheduler.last_epoch = 20
    again.look(20)
    assert again.moving == [scheduler]
    StepRate([]).load_state_dict(state)  # of another number of schedulers: begins anew
