"""Adam predictors: equal to torch.optim.AdamW stepped with zero gradients, and to slow float64 formulas."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from leapverify.errors import Declined
from leapverify.predict import predictor
from leapverify.trajectory.history import GroupHyper, History, OptimizerState

SHAPES = [(), (0, 2), (40,), (12, 9)]
HORIZONS = (1, 2, 5, 10, 25, 100)


def schedule(number: int) -> float:
    return 3e-3 * (1 - number / 400) if number > 20 else 3e-3 * (number - 1) / 20


def trained(steps: int, dtype: torch.dtype, *, change: Callable[[int], float] | None = None, **options: object):
    """Parameters and their optimizer after some steps on gradients of very different sizes."""
    generator = torch.Generator().manual_seed(7)
    parameters = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in SHAPES]
    scales = [10.0 ** torch.randint(-9, 1, shape, generator=generator).to(dtype) for shape in SHAPES]
    groups = [
        {"params": parameters[:2], "weight_decay": 0.1},
        {"params": parameters[2:], "betas": (0.8, 0.95), "eps": 1e-4, "lr": 2e-3, "weight_decay": 0.0},
    ]
    if options.pop("one_group", False):
        groups = [{"params": parameters}]
    optimizer = torch.optim.AdamW(groups, **{"lr": 1e-3, "foreach": False, **options})
    for number in range(1, steps + 1):
        for parameter, scale in zip(parameters, scales, strict=True):
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype) * scale
        step_with(optimizer, change, number)
    return parameters, optimizer


def step_with(optimizer: torch.optim.Optimizer, change: Callable[[int], float] | None, number: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = change(number) if change else group["lr"]
    optimizer.step()


def coast(parameters, optimizer, steps: int, change: Callable[[int], float] | None, after: int) -> None:
    for number in range(after + 1, after + steps + 1):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        step_with(optimizer, change, number)


def history_of(parameters, optimizer, step: int, change: Callable[[int], float] | None = None) -> History:
    history = History(parameters, 1)
    history.push(step, parameters)
    history.optimizer = OptimizerState.from_optimizer(optimizer, parameters, step=step, schedule=change)
    return history


def closeness(got: Tensor, wanted: Tensor, start: Tensor) -> float:
    """Error in units of what float32 can tell: of the weight, and of the movement."""
    unit = 2.0**-23 * torch.maximum(wanted.abs(), start.abs()) + 1e-6 * (wanted - start).abs() + 1e-30
    return float(((got.double() - wanted).abs() / unit).max()) if got.numel() else 0.0


OPTIONS = {
    "groups": {},
    "fast betas": {"one_group": True, "betas": (0.5, 0.6)},
    "slow betas": {"one_group": True, "betas": (0.99, 0.9999)},
    "no first moment": {"one_group": True, "betas": (0.0, 0.99)},
    "large eps": {"one_group": True, "eps": 1e-2},
    "tiny eps": {"one_group": True, "eps": 1e-15},
    "strong decay": {"one_group": True, "weight_decay": 5.0, "lr": 1e-2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("taken", [1, 3, 120])
@pytest.mark.parametrize("change", [None, schedule], ids=["constant", "schedule"])
def test_adam_equals_adamw_without_gradients(options: dict[str, object], taken: int, change) -> None:
    """In float64 AdamW is the slow reference; only the history is rounded to float32."""
    parameters, optimizer = trained(taken, torch.float64, change=change, **options)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(parameter.float())
    history = history_of(parameters, optimizer, taken, change)
    start, done = [each.detach().clone() for each in parameters], 0
    for horizon in HORIZONS:
        predicted = predictor("adam").predict(history, horizon)
        if done == 0:
            history.optimizer = copied(history.optimizer)
        coast(parameters, optimizer, horizon - done, change, taken + done)
        done = horizon
        for got, wanted, before in zip(predicted, parameters, start, strict=True):
            assert closeness(got, wanted.detach(), before) < 3


def copied(state: OptimizerState | None) -> OptimizerState:
    assert state is not None
    return OptimizerState(
        tuple(m.clone() for m in state.m),
        tuple(v.clone() for v in state.v),
        state.steps,
        state.groups,
        state.hyper,
        state.lr,
        state.step,
    )


@pytest.mark.parametrize("foreach", [False, True])
def test_adam_equals_float32_adamw_to_its_own_rounding(foreach: bool) -> None:
    parameters, optimizer = trained(60, torch.float32, change=schedule, foreach=foreach)
    history = history_of(parameters, optimizer, 60, schedule)
    predicted = predictor("adam").predict(history, 50)
    coast(parameters, optimizer, 50, schedule, 60)
    for got, wanted in zip(predicted, parameters, strict=True):
        torch.testing.assert_close(got, wanted.detach(), rtol=50 * 2.0**-24, atol=1e-7)


def test_adam_is_bounded_by_the_decay_of_the_first_moment() -> None:
    """At beta1 = 0.9 a coasting step sequence moves at most 9 present steps' worth, however long."""
    parameters, optimizer = trained(1000, torch.float32, one_group=True, weight_decay=0.0)
    history = history_of(parameters, optimizer, 1000)
    one = predictor("adam-constant").predict(history, 1)
    far = predictor("adam").predict(history, 100)
    for step, coasted, now in zip(one, far, history[-1].tensors, strict=True):
        # v shrinks meanwhile, by at most 0.999^(i/2): worth a few per cent over the steps that count.
        assert bool(((coasted - now).abs() <= 9.1 * (step - now).abs() + 1e-6 * now.abs()).all())


@pytest.mark.parametrize("horizon", HORIZONS)
def test_adam_constant_and_momentum_equal_their_formulas(horizon: int) -> None:
    parameters, optimizer = trained(30, torch.float32, change=schedule)
    history = history_of(parameters, optimizer, 30, schedule)
    eta_sum = sum(schedule(30 + i) for i in range(1, horizon + 1))
    for i, parameter in enumerate(parameters):
        group = optimizer.param_groups[0 if i < 2 else 1]
        beta1, beta2 = group["betas"]
        theta = parameter.detach().double()
        m, v = (optimizer.state[parameter][key].double() for key in ("exp_avg", "exp_avg_sq"))
        velocity = (m / (1 - beta1**30)) / ((v / (1 - beta2**30)).sqrt() + group["eps"])
        wanted = theta - eta_sum * velocity
        assert closeness(predictor("adam-constant").predict(history, horizon)[i], wanted, theta) < 3
        for scale in (0.8, 1.0):
            wanted = theta + scale * horizon * m / (v + group["eps"]).sqrt()
            assert closeness(predictor("momentum", scale=scale).predict(history, horizon)[i], wanted, theta) < 3


@pytest.mark.parametrize("name", ["adam", "adam-constant", "momentum"])
def test_a_decayed_state_predicts_like_the_optimizer_it_stands_for(name: str) -> None:
    parameters, optimizer = trained(40, torch.float64, change=schedule)
    state = history_of(parameters, optimizer, 40, schedule).optimizer
    assert state is not None
    coasted = copied(state).decayed(10).decayed(15)
    coast(parameters, optimizer, 25, schedule, 40)
    history = history_of(parameters, optimizer, 65, schedule)
    expected = predictor(name).predict(history, 20)
    assert history.optimizer is not None
    assert (coasted.steps, coasted.step) == (history.optimizer.steps, history.optimizer.step)
    history.optimizer = coasted
    for got, wanted in zip(predictor(name).predict(history, 20), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=3e-6, atol=1e-7)


def test_chained_adam_predictions_equal_one_long_one() -> None:
    parameters, optimizer = trained(50, torch.float32, change=schedule)
    history = history_of(parameters, optimizer, 50, schedule)
    expected = predictor("adam").predict(history, 60)
    with history.branch() as chain:
        for _ in range(3):
            predicted = predictor("adam").predict(chain, 20)
            assert chain.optimizer is not None
            state = chain.optimizer.decayed(20)
            chain.push(chain.steps[-1] + 20, predicted)
            chain.optimizer = state
        for got, wanted in zip(predicted, expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-7)


def test_half_moments_underflow_and_explode() -> None:
    """The published artefact: v below float16's range becomes 0, and the step m / eps."""
    theta, m, v = torch.zeros(2), torch.tensor([1e-5, 1e-5]), torch.tensor([1e-10, 1e-2])
    hyper = GroupHyper(0.9, 0.999, 1e-8, 0.0)
    history = History([theta], 1)
    history.push(100, [theta])
    state = OptimizerState((m,), (v,), (100,), (0,), (hyper,), (lambda _: 1e-3,), 100)
    history.optimizer = state.rounded(torch.float16)
    assert torch.equal(state.v[0], v)
    half = predictor("adam-constant").predict(history, 1)[0].abs()
    history.optimizer = state
    full = predictor("adam-constant").predict(history, 1)[0].abs()
    assert float(half[0] / full[0]) > 100
    torch.testing.assert_close(half[1], full[1], rtol=2e-2, atol=0)


@pytest.mark.parametrize("name", ["adam", "adam-constant", "momentum"])
def test_without_moments_it_declines_and_a_parameter_without_gradient_stays(name: str) -> None:
    used, unused = (torch.ones(3, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.AdamW([used, unused], lr=1e-2, weight_decay=0.1)
    history = history_of([used, unused], optimizer, 0)
    with pytest.raises(Declined, match="needs Adam's moments, the optimizer has taken no step yet"):
        predictor(name).predict(history, 5)
    used.grad = torch.ones(3)
    optimizer.step()
    history = history_of([used, unused], optimizer, 1)
    moved, still = predictor(name).predict(history, 5)
    assert bool((moved != used).all())
    assert torch.equal(still, unused.detach())


def test_a_state_of_another_step_is_refused() -> None:
    parameters, optimizer = trained(3, torch.float32)
    history = history_of(parameters, optimizer, 3)
    history.push(4, parameters)
    with pytest.raises(ValueError, match="the optimizer state is of step 3, the newest snapshot of step 4"):
        predictor("adam").predict(history, 5)


def test_predicting_does_not_step_the_optimizer() -> None:
    parameters, optimizer = trained(5, torch.float32)
    before = copy.deepcopy(optimizer.state_dict())
    for name in ("adam", "adam-constant", "momentum"):
        predictor(name).predict(history_of(parameters, optimizer, 5), 50)
    after = optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for key, state in before["state"].items():
        assert all(torch.equal(value, after["state"][key][part]) for part, value in state.items())


@pytest.mark.parametrize("horizon", HORIZONS)
def test_xgrad_is_as_many_steps_with_frozen_moments(horizon: int) -> None:
    """Step by step in float64, at the rate of the coming step."""
    parameters, optimizer = trained(30, torch.float32, change=schedule)
    got = predictor("xgrad").predict(history_of(parameters, optimizer, 30, schedule), horizon)
    for i, parameter in enumerate(parameters):
        group = optimizer.param_groups[0 if i < 2 else 1]
        beta1, beta2 = group["betas"]
        m, v = (optimizer.state[parameter][key].double() for key in ("exp_avg", "exp_avg_sq"))
        m_hat, v_hat = m / (1 - beta1**30), v / (1 - beta2**30)
        theta = parameter.detach().double()
        w = theta.clone()
        for _ in range(horizon):
            w = w - schedule(31) * m_hat / (v_hat.sqrt() + group["eps"])
        assert closeness(got[i], w, theta) < 3


def test_xgrad_is_adam_constant_at_a_constant_rate_and_declines_like_it() -> None:
    parameters, optimizer = trained(40, torch.float32)
    history = history_of(parameters, optimizer, 40)
    for xgrad, constant in zip(*(predictor(n).predict(history, 25) for n in ("xgrad", "adam-constant")), strict=True):
        torch.testing.assert_close(xgrad, constant, rtol=1e-6, atol=0)
    history.optimizer = None
    with pytest.raises(Declined, match="needs the optimizer state, the history has none"):
        predictor("xgrad").predict(history, 25)
