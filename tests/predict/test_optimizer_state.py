"""The optimizer state: views without copies, and refusals by their text."""

from __future__ import annotations

import pytest
import torch

from leapverify.trajectory.history import GroupHyper, OptimizerState


def stepped(kind: type[torch.optim.Optimizer], **options: object):
    parameters = [torch.ones(3, requires_grad=True), torch.ones(2, 2, requires_grad=True)]
    optimizer = kind(parameters, lr=0.1, **options)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return parameters, optimizer


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam])
def test_it_holds_views_in_the_order_of_the_parameters(kind: type[torch.optim.Optimizer]) -> None:
    parameters, optimizer = stepped(kind, betas=(0.7, 0.8), eps=1e-3)
    state = OptimizerState.from_optimizer(optimizer, parameters[::-1], step=9)
    assert [each.data_ptr() for each in state.m] == [optimizer.state[p]["exp_avg"].data_ptr() for p in parameters[::-1]]
    assert state.v[0] is optimizer.state[parameters[1]]["exp_avg_sq"]
    assert (state.steps, state.groups, state.step) == ((1, 1), (0, 0), 9)
    decay = 0.01 if kind is torch.optim.AdamW else 0.0
    assert state.hyper == (GroupHyper(0.7, 0.8, 1e-3, decay),)
    assert state.lr[0](10) == state.lr[0](500) == 0.1


def test_schedules_for_all_groups_or_one_each() -> None:
    parameters = [torch.ones(1, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.AdamW([{"params": [each]} for each in parameters])
    both = OptimizerState.from_optimizer(optimizer, parameters, step=0, schedule=lambda i: 2.0 * i)
    assert [rate(3) for rate in both.lr] == [6.0, 6.0]
    each = OptimizerState.from_optimizer(optimizer, parameters, step=0, schedule=[lambda i: 1.0, lambda i: 2.0])
    assert [rate(3) for rate in each.lr] == [1.0, 2.0]
    with pytest.raises(ValueError, match="1 rates for 2 groups: pass one rate per group"):
        OptimizerState.from_optimizer(optimizer, parameters, step=0, schedule=[lambda i: 1.0])


REFUSED = {
    "optimizer SGD is not torch.optim.AdamW or Adam: pass one of these, unwrapped": (torch.optim.SGD, {}),
    "amsgrad=True of AdamW is not predicted: build the optimizer with amsgrad=False": (
        torch.optim.AdamW,
        {"amsgrad": True},
    ),
    "maximize=True of AdamW is not predicted": (torch.optim.AdamW, {"maximize": True}),
    "weight_decay=0.1 of Adam enters the gradient: use torch.optim.AdamW": (torch.optim.Adam, {"weight_decay": 0.1}),
}


@pytest.mark.parametrize(("message", "made"), REFUSED.items())
def test_what_is_not_predicted_is_refused(message: str, made: tuple[type[torch.optim.Optimizer], dict]) -> None:
    parameters, optimizer = stepped(made[0], **made[1])
    with pytest.raises(ValueError, match=message):
        OptimizerState.from_optimizer(optimizer, parameters, step=1)


def test_a_parameter_of_another_optimizer_is_refused() -> None:
    parameters, optimizer = stepped(torch.optim.AdamW)
    with pytest.raises(ValueError, match="does not hold the parameter at position 1"):
        OptimizerState.from_optimizer(optimizer, [parameters[0], torch.ones(1)], step=1)


def test_from_tensors_finds_moments_by_name_and_names_what_is_missing() -> None:
    tensors = {f"{kind}.{name}": torch.ones(2) for kind in ("exp_avg", "exp_avg_sq") for name in ("a", "b")}
    hyper = GroupHyper(0.9, 0.999, 1e-8)
    state = OptimizerState.from_tensors(["b", "a"], tensors, step=4, steps=4, hyper=hyper, lr=lambda _: 0.1)
    assert state.m[0] is tensors["exp_avg.b"]
    assert (state.steps, state.groups) == ((4, 4), (0, 0))
    del tensors["exp_avg_sq.a"]
    with pytest.raises(ValueError, match=r"exp_avg_sq\.a is missing among the saved moments"):
        OptimizerState.from_tensors(["b", "a"], tensors, step=4, steps=4, hyper=hyper, lr=lambda _: 0.1)


def test_decayed_counts_and_shares_the_moments() -> None:
    parameters, optimizer = stepped(torch.optim.AdamW)
    state = OptimizerState.from_optimizer(optimizer, parameters, step=1)
    later = state.decayed(5).decayed(2)
    assert (later.steps, later.step, later.idle) == ((8, 8), 8, 7)
    assert later.m[0] is state.m[0]
    with pytest.raises(ValueError, match="horizon -1 is negative"):
        state.decayed(-1)
