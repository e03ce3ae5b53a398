"""Wrong choices are refused before the run, each in one sentence that names the remedy."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from leap_loops import Mlp, fingerprint_of, make
from leapverify.leap.api import LeapVerify
from leapverify.leap.config import LeapConfig
from leapverify.leap.optimizers import refuse_unsuited, reset_moments

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "interval True": ({"interval": True}, "interval is True: give a whole number of at least 1"),
    "interval 0": ({"interval": 0}, "interval is 0: give a whole number"),
    "interval 1.5": ({"interval": 1.5}, "interval is 1.5: give a whole number"),
    "sequences": ({"sequences": 8}, "sequences is 8: the paired test looks at 16 of them first, so give at least"),
    "alpha str": ({"alpha": "x"}, "alpha is 'x': give a number between 0 and 0.5, such as 0.05"),
    "alpha True": ({"alpha": True}, "alpha is True: give a number"),
    "alpha 0.7": ({"alpha": 0.7}, "alpha = 0.7 is no rate of false accepts"),
    "budget str": (
        {"budget": "1%"},
        "budget is '1%': give a share of the run's time above 0 and up to 1, such as",
    ),
    "budget -inf": ({"budget": float("-inf")}, "budget is -inf: give a share"),
    "budget nan": ({"budget": float("nan")}, "budget is nan: give a share"),
    "total_steps": ({"total_steps": 100.5}, "total_steps is 100.5: give the optimizer steps of the whole run, a whole"),
    "total_steps 0": ({"total_steps": 0}, "total_steps is 0: give the optimizer steps"),
    "step_tokens": ({"step_tokens": "many"}, "step_tokens is 'many': give a number, 3 x the positions of one training"),
    "no device": (
        {"history_device": "nonsense"},
        "history_device is 'nonsense', which holds no memory here: give",
    ),
    "meta": ({"history_device": "meta"}, "history_device is 'meta', which holds no memory here"),
    "a device": ({"history_device": torch.device("cpu")}, "history_device is device.*give None .* or 'cpu'"),
    "logger": ({"loggers": object()}, "a object is no logger: pass an object with log"),
    "log": ({"log": 3}, "log is 3: give the path of a file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_choices_are_refused_with_a_remedy(case: str) -> None:
    options, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        make("mlp").leap(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device of that name here")
def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ValueError, match="history_device is 'cuda', which holds no memory here"):
        make("mlp").leap(history_device="cuda")


def test_few_sequences_serve_criteria_that_are_no_test() -> None:
    make("mlp").leap(sequences=8, criterion="strict")


class _Run:
    """A logger of its own kind."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def log(self, record: dict[str, Any], step: int) -> None:
        self.steps.append(step)


def test_one_logger_need_not_be_in_a_list() -> None:
    for wrap in (lambda each: each, lambda each: [each], lambda each: (each,)):
        loop, run = make("mlp"), _Run()
        loop.run(8, loop.leap(mode="monitor", loggers=wrap(run)))
        assert run.steps == [4, 8]
    steps: list[int] = []
    loop = make("mlp")
    loop.run(4, loop.leap(mode="monitor", loggers=lambda record, step: steps.append(step)))
    assert steps == [4]
    make("mlp").leap(mode="monitor", loggers=None)


class _Mine(torch.optim.LBFGS):
    """One's own."""


TIED: dict[str, tuple[Callable[..., torch.optim.Optimizer], str]] = {
    "ASGD": (torch.optim.ASGD, "optimizer ASGD averages the weights in its state, and a leap would be averaged in"),
    "LBFGS": (torch.optim.LBFGS, "optimizer LBFGS builds its curvature from differences of weights and gradients"),
    "of LBFGS": (_Mine, "optimizer _Mine builds its curvature .* use mode='monitor' or 'shadow'"),
}


@pytest.mark.parametrize("case", TIED)
def test_optimizers_whose_state_belongs_to_the_path_are_refused_live_alone(case: str) -> None:
    kind, message = TIED[case]
    loop = make("mlp")
    loop.optimizer = kind(loop.model.parameters())
    loop.scheduler = None
    with pytest.raises(ValueError, match=message):
        loop.leap()
    for mode in ("monitor", "shadow"):
        loop.leap(mode=mode)


def test_other_optimizers_are_served() -> None:
    optim = torch.optim
    for kind in (optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad, optim.NAdam, optim.RAdam):
        refuse_unsuited([kind(Mlp().parameters(), lr=0.1)])


def test_adagrad_begins_anew_and_can_go_on_after_a_reset() -> None:
    loop = make("mlp")
    loop.optimizer = torch.optim.Adagrad(loop.model.parameters(), lr=0.01, initial_accumulator_value=0.5)
    loop.scheduler = torch.optim.lr_scheduler.ConstantLR(loop.optimizer, 1.0)
    loop.run(3)
    parameters = list(loop.model.parameters())
    before = fingerprint_of(loop)
    with ExitStack() as undo:
        reset_moments([loop.optimizer], parameters, undo)
    assert fingerprint_of(loop) == before
    with ExitStack() as undo:
        reset_moments([loop.optimizer], parameters, undo)
        undo.pop_all()
    fresh = torch.optim.Adagrad(parameters, lr=0.01, initial_accumulator_value=0.5)
    for parameter in parameters:
        for name, value in fresh.state[parameter].items():
            assert torch.equal(loop.optimizer.state[parameter][name], value)
    loop.run(2, start=3)


# --- LeapConfig -------------------------------------------------------------------------------------------------------


def test_options_stand_in_place_of_those_of_the_config() -> None:
    config = LeapConfig(mode="monitor", interval=3, clock="wall")
    leap = make("mlp").leap(config=config, interval=5)
    assert leap.config == replace(config, interval=5, budget=1.0, clock="tokens", step_tokens=1e5)


@pytest.mark.parametrize(
    ("name", "near"), [("intervall", "interval"), ("horizont", "horizon"), ("patience", "patience_s")]
)
def test_an_unknown_option_names_the_nearest(name: str, near: str) -> None:
    message = f"unknown option '{name}': did you mean '{near}'\\? LeapConfig lists all options"
    with pytest.raises(TypeError, match=message):
        make("mlp").leap(**{name: 3})


def test_every_option_is_explained_beside_it() -> None:
    meanings = LeapConfig.meanings()
    assert list(meanings) == [each.name for each in fields(LeapConfig)]
    assert all(meanings.values())


def test_no_option_is_listed_twice() -> None:
    inputs = set(inspect.signature(LeapVerify).parameters) - {"options"}
    assert not inputs & {each.name for each in fields(LeapConfig)}
    assert "LeapConfig" in (LeapVerify.__doc__ or "")
