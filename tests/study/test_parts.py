"""The parts of a study by themselves: restore point, cascade, Lyapunov shadow, cost, curve."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from leapverify.capacity.cost import cost
from leapverify.capacity.memory import Room
from leapverify.config.overrides import with_settings
from leapverify.config.presets import preset
from leapverify.config.resolved import Resolved
from leapverify.config.study import CascadeConfig
from leapverify.io.records import LossPoint
from leapverify.landscape.lyapunov import Shadow
from leapverify.study.cascade import Cascader, Start, complete
from leapverify.study.restore import RestorePoint
from leapverify.trajectory.history import History, OptimizerState
from leapverify.verify import Verifier


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    states = [value for state in optimizer.state.values() for value in state.values()]
    return [tensor.clone() for tensor in [*model.parameters(), *model.buffers(), *states, torch.get_rng_state()]]


def a_run(steps: int = 3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(model=model, optimizer=optimizer):
        optimizer.zero_grad()
        loss = model(torch.ones(5, 4) + torch.randn(5, 4)).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    for _ in range(steps):
        step()
    return model, optimizer, step


def test_going_back_leaves_no_trace_of_steps_rates_and_modes():
    model, optimizer, step = a_run()
    before = everything(model, optimizer)
    point = RestorePoint(model, optimizer)
    point.save()
    point.leave()
    optimizer.param_groups[0]["lr"] = 7.0
    model.eval()
    step()
    point.restore()
    point.wait()
    assert all(torch.equal(a, b) for a, b in zip(before, everything(model, optimizer), strict=True))
    assert optimizer.param_groups[0]["lr"] == 1e-2
    assert model.training


def bowl(curvatures: list[float], lr: float, epsilon: float = 1e-3):
    """Gradient descent on sum h w^2 / 2, where a perturbation shrinks by |1 - lr h| a step."""
    model = nn.Linear(len(curvatures), 1, bias=False).double()
    h = torch.tensor(curvatures, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    shadow = Shadow(model, lambda p: torch.optim.SGD(p, lr=lr), epsilon=epsilon, seed=0)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        optimizer.zero_grad()
        loss = (h * model.weight**2).sum() / 2
        loss.backward()
        optimizer.step()
        return loss.detach()

    return model, optimizer, shadow, step


@pytest.mark.parametrize(("curvature", "sign"), [(1.0, -1), (30.0, 1)])
def test_the_exponent_of_a_bowl_is_the_logarithm_of_its_factor(curvature, sign):
    model, optimizer, shadow, step = bowl([curvature] * 3, lr=0.1)
    for _ in range(7):
        shadow.step_with(step)
        step(model, optimizer)
    expected = math.log(abs(1 - 0.1 * curvature))
    assert shadow.exponent(model, optimizer, 7) == pytest.approx(expected, rel=1e-9)
    assert math.copysign(1, expected) == sign


def test_renormalising_turns_the_perturbation_towards_the_largest_exponent():
    model, optimizer, shadow, step = bowl([0.5, 1.0, 25.0], lr=0.1)
    with torch.no_grad():
        shadow.model.weight.sub_(model.weight)
        model.weight.zero_()  # on the unstable fixed point, so that only the perturbation grows
    for _ in range(12):
        for _ in range(5):
            shadow.step_with(step)
            step(model, optimizer)
        exponent = shadow.exponent(model, optimizer, 5)
    assert exponent == pytest.approx(math.log(1.5), rel=1e-6)


def test_the_shadow_leaves_the_run_and_its_random_numbers_alone():
    model, optimizer, step = a_run()
    twin, twin_optimizer, _ = a_run()
    shadow = Shadow(model, lambda p: torch.optim.AdamW(p, lr=1e-2), epsilon=1e-3, seed=1)
    torch.manual_seed(5)
    for _ in range(4):
        step(twin, twin_optimizer)
    alone = everything(twin, twin_optimizer)
    torch.manual_seed(5)
    for _ in range(4):
        shadow.step_with(step)
        step(model, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(alone, everything(model, optimizer), strict=True))


@pytest.fixture
def line():
    """A run on a straight line, w = 1 - t / 100, with loss w^2, standing at step 20."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    history = History(list(model.parameters()), 3)
    with torch.no_grad():
        for step in (0, 10, 20):
            model.weight.fill_(1 - step / 100)
            history.push(step, list(model.parameters()))
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer.step()
    verifier = Verifier(model, [None], lambda m, _: m.weight.square().sum(), sequences=1, budget=1)
    trained: list[tuple[int, int, int]] = []

    def train(batch: int, step: int, count: int) -> None:
        trained.append((batch, step, count))
        with torch.no_grad():
            model.weight.sub_(count / 100)

    def cascades(**settings):
        history.optimizer = OptimizerState.from_optimizer(optimizer, list(model.parameters()), step=20)
        state = lambda step: OptimizerState.from_optimizer(optimizer, list(model.parameters()), step=step)  # noqa: E731
        config = CascadeConfig(**{"shapes": ((3, 5),), **settings})
        return Cascader(model, optimizer, list(model.parameters()), history, verifier, train, state, config)

    return model, cascades, trained


def test_linear_links_on_a_line_reach_the_line(line):
    model, cascades, _ = line
    links = cascades(kinds=("chained",), predictors=("linear",)).run(Start(1, 20, 0.64))
    assert [link.loss for link in links] == pytest.approx([0.75**2, 0.70**2, 0.65**2], rel=1e-5)
    assert [link.loss_before for link in links] == pytest.approx([0.64, 0.75**2, 0.70**2], rel=1e-5)
    assert [link.weight_drift for link in links] == pytest.approx([0.05 / 0.8, 0.10 / 0.8, 0.15 / 0.8], rel=1e-5)
    assert all(link.strict for link in links)
    assert model.weight.item() == pytest.approx(0.8)


def test_trained_links_go_on_with_real_steps_and_never_difference_across_a_leap(line):
    model, cascades, trained = line
    links = cascades(kinds=("trained",), trained_predictors=("linear",)).run(Start(1, 20, 0.64))
    # Each link predicts 5 steps and trains 5: the schedule runs on both, the batches on the real ones only.
    assert trained == [(21, 26, 0), (21, 26, 5), (26, 36, 0), (26, 36, 5), (31, 46, 0), (31, 46, 5)]
    assert [link.loss_predicted for link in links] == pytest.approx([0.75**2, 0.65**2, 0.55**2], rel=1e-5)
    assert [link.loss for link in links] == pytest.approx([0.70**2, 0.60**2, 0.50**2], rel=1e-5)
    assert model.weight.item() == pytest.approx(0.8)
    curve = [LossPoint(1, step, (1 - step / 100) ** 2) for step in range(20, 51, 5)]
    for link in complete(links, curve):
        assert link.loss == pytest.approx(link.loss_same_effective_step, rel=1e-5)
        assert link.loss_same_real_steps == pytest.approx((0.8 - 0.05 * link.link) ** 2)


def test_a_cascade_whose_predictor_declines_says_so_once(line):
    _, cascades, _ = line
    links = cascades(kinds=("chained",), predictors=("taylor-5",)).run(Start(1, 20, 0.64))
    assert [(link.link, link.status, link.strict) for link in links] == [(1, "declined", None)]


def test_the_curve_covers_every_t_plus_k_and_nothing_beyond_the_end():
    config = preset("gpt2-124m")
    short = {"training.steps": 200, "observe.interval_steps": 50}
    steps = Resolved.of(with_settings(config, {**short, "cascade.kinds": []})).curve_steps
    assert steps == {50, 55, 60, 75, 100, 105, 110, 125, 150, 155, 160, 175, 200}
    links = Resolved.of(with_settings(config, short)).curve_steps
    assert links >= steps | {50 + 10 * link for link in range(1, 11)} | {50 + 20 * link for link in range(1, 8)}
    assert max(links) == 200


def test_the_presets_have_the_papers_sizes():
    room = Room(80 * 10**9, 200 * 10**9)
    assert cost(Resolved.of(preset("gpt2-124m")), 50257, room).parameters == 124_439_808
    assert round(cost(Resolved.of(preset("qwen2.5-1.5b")), 151936, room).parameters / 1e9, 2) == 1.54
    assert round(cost(Resolved.of(preset("qwen2.5-7b")), 152064, room).parameters / 1e9, 2) == 7.62
    assert 1e5 <= cost(Resolved.of(preset("tiny")), 256, room).parameters <= 5e5
