"""Meta-training on histories whose law is known, and what it is compared with."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from leapverify.core.statistics import Interval
from leapverify.nowcast.fit import FitOptions, Fitted, Score, as_lines, best_slope, fit, loss, score
from leapverify.nowcast.histories import Trajectory, sampled
from leapverify.nowcast.pairs import Pairs, joined, pairs_of
from leapverify.predict.learnt import NETWORKS

OPTIONS = FitOptions(steps=600, batch=1024, lr=5e-3, look_every_steps=100)


def decays(seed: int, weights: int = 300) -> Trajectory:
    """w(t) = c + A exp(-t / tau), tau from 20 to 1000 steps, 31 states 10 steps apart."""
    generator = torch.Generator().manual_seed(seed)
    steps = tuple(range(0, 310, 10))
    tensors = []
    for scale in (1.0, 0.01):
        c, a = torch.randn(2, weights, generator=generator) * scale
        tau = 20.0 * 50.0 ** torch.rand(weights, generator=generator)
        tensors.append(c + a * torch.exp(-torch.tensor(steps)[:, None] / tau))
    return Trajectory(seed, steps, tuple(tensors))


def pairs(kind: str, *seeds: int) -> list[Pairs]:
    found = [pairs_of(kind, decays(seed), 2) for seed in seeds]
    return [each for each in found if each is not None]


def learnt(kind: str, options: FitOptions = OPTIONS) -> Fitted:
    train, heldout = joined(pairs(kind, 0, 1)), joined(pairs(kind, 2))
    assert train is not None
    assert heldout is not None
    return fit(NETWORKS[kind], train, heldout, options)


@pytest.mark.parametrize(("kind", "to_hold", "to_linear"), [("introspection", 0.35, 0.4), ("wnn", 0.1, 0.5)])
def test_decays_of_other_seeds_are_predicted_better_than_by_hold_and_linear(
    kind: str, to_hold: float, to_linear: float
) -> None:
    test = pairs(kind, 3, 4, 5)
    network, hold, linear, _ = score(NETWORKS[kind], learnt(kind).weights, test, 0.5)
    assert (network.seeds, network.pairs) == (3, sum(map(len, test)))
    assert network.l1 < to_hold * hold.l1
    assert network.l1 < to_linear * linear.l1
    assert hold.ratio_interval is not None
    assert hold.ratio_interval.high < to_hold


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_same_seed_gives_the_same_weights_and_touches_no_global_generator(kind: str) -> None:
    options, before = FitOptions(steps=20, batch=64, look_every_steps=10), torch.get_rng_state()
    one, other = learnt(kind, options), learnt(kind, options)
    third = learnt(kind, dataclasses.replace(options, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert not all(torch.equal(one.weights[name], third.weights[name]) for name in one.weights)


def test_it_stops_where_held_out_histories_get_no_better_and_keeps_the_best() -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    train = Pairs(x, torch.ones(64), x[0], x[1])
    against = Pairs(x, torch.ones(64), -x[0], x[1])
    found = fit(NETWORKS["introspection"], train, against, FitOptions(500, 64, 1e-2, 0.0, 5, patience=3))
    assert found.best_step <= found.last_step == found.best_step + 15
    assert found.heldout_loss == loss(NETWORKS["introspection"], found.weights, against)


def test_no_step_is_no_training() -> None:
    with pytest.raises(ValueError, match="--steps 0 is no number of training steps: give at least 1"):
        learnt("wnn", FitOptions(steps=0))


def test_pairs_are_in_units_of_the_tensor_s_movement() -> None:
    for kind in NETWORKS:
        found = pairs_of(kind, decays(0), 2)
        larger = pairs_of(kind, Trajectory(0, decays(0).steps, tuple(each * 1024 for each in decays(0).tensors)), 2)
        assert found is not None
        assert larger is not None
        torch.testing.assert_close(found.target, larger.target)
        torch.testing.assert_close(found.line, larger.line)
        if kind == "introspection":
            assert torch.equal(found.x, larger.x)
            assert torch.equal(found.unit, torch.ones(len(found)))


def test_a_straight_path_is_on_the_line() -> None:
    steps = tuple(range(0, 310, 10))
    slopes = torch.linspace(-1, 1, 21)
    straight = Trajectory(0, steps, (torch.tensor(steps)[:, None] * slopes,))
    for kind in NETWORKS:
        found = pairs_of(kind, straight, 3)
        assert found is not None
        torch.testing.assert_close(found.line, found.target)


def test_wnn_sees_every_five_in_a_row_and_its_target() -> None:
    short = Trajectory(0, (0, 10, 20, 30, 40, 50, 60), (torch.arange(14.0).view(7, 2) ** 2,))
    found = pairs_of("wnn", short, 2)
    assert found is not None
    moved = math.sqrt((8.0**4 + (81.0 - 1.0) ** 2) / 2)
    torch.testing.assert_close(found.target * moved, torch.tensor([12.0**2 - 8.0**2, 13.0**2 - 9.0**2]))
    assert pairs_of("wnn", short, 3) is None


def test_tensors_at_rest_are_left_out() -> None:
    steps = tuple(range(0, 310, 10))
    assert pairs_of("wnn", Trajectory(0, steps, (torch.ones(31, 5),)), 2) is None
    assert pairs_of("introspection", Trajectory(0, steps, (torch.ones(31, 5), torch.ones(31, 0))), 2) is None


def test_the_slope_makes_the_absolute_error_smallest() -> None:
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(401, generator=generator)
    target = 0.3 * line + 0.2 * torch.randn(401, generator=generator)
    found = best_slope(Pairs(torch.zeros(4, 401), torch.ones(401), target, line))

    def error(slope: float) -> float:
        return float((slope * line - target).abs().double().mean())

    assert error(found) <= min(error(found + shift) for shift in (-0.1, -0.01, -1e-3, 1e-3, 0.01, 0.1)) + 1e-9
    assert best_slope(Pairs(torch.zeros(4, 3), torch.ones(3), torch.ones(3), torch.zeros(3))) == 0.0


def test_samples_are_spread_over_the_tensor_and_its_columns() -> None:
    tensor = torch.arange(64 * 256).view(64, 256)
    found = sampled(tensor, 1021).long()
    assert len(found) == len(found.unique()) == 1021
    assert found.diff().min() >= 16
    assert found.diff().max() <= 17
    assert len((found % 256).unique()) > 200
    assert torch.equal(sampled(tensor[0], 256), tensor[0].float())
    assert sampled(torch.ones(()), 5).shape == (1,)


def test_the_table_has_n_and_intervals() -> None:
    rows = [
        Score("wnn", 0.25, Interval(0.2, 0.3), 1.0, None, 4, 4000),
        Score("hold", 0.5, None, 0.5, Interval(0.4, 0.6), 4, 4000),
    ]
    assert as_lines(rows) == [
        "| method | L1 per weight (95 % over seeds) | wnn over it (95 % over seeds) |",
        "|---|---|---|",
        "| wnn | 0.2500 (0.2000 to 0.3000) | - |",
        "| hold | 0.5000 | 0.500 (0.400 to 0.600) |",
        "",
        "n = 4 seeds, 4,000 pairs.",
    ]


def test_the_errors_are_those_of_the_predictor() -> None:
    """What meta-training minimises is what `predict` does."""
    from leapverify.predict.learnt.files import Learnt
    from leapverify.predict.learnt.introspection import introspection_form
    from leapverify.predict.learnt.wnn import wnn_form
    from leapverify.trajectory.history import History
    from leapverify.trajectory.milestones import Milestones

    path = decays(7)
    for kind in NETWORKS:
        weights = learnt(kind, FitOptions(steps=50, look_every_steps=25)).weights
        history = History([each[0] for each in path.tensors], 5)
        history.milestones = Milestones()
        for number in range(16):
            history.push(path.steps[number], [each[number] for each in path.tensors])
        made = (
            introspection_form(Learnt(weights, {}))
            if kind == "introspection"
            else wnn_form(Learnt(weights, {"ahead": 2}))
        )
        then = 30 if kind == "introspection" else 17
        got = made.predict(history, 20)
        wanted = [
            _l1(kind, weights, Trajectory(0, path.steps[: then + 1], (each[: then + 1],)), each[then] - each[15])
            for each in path.tensors
        ]
        for tensor, prediction, error in zip(path.tensors, got, wanted, strict=True):
            torch.testing.assert_close((prediction - tensor[then]).abs().mean(), error, rtol=1e-3, atol=1e-6)


def _l1(kind: str, weights: object, trajectory: Trajectory, came: Tensor) -> Tensor:
    """Mean |predicted - come| at the last moment of a trajectory, back in units of the weights."""
    found = pairs_of(kind, trajectory, 2)
    assert found is not None
    last = slice(-came.numel(), None)
    output = NETWORKS[kind].forward(weights, found.x[:, last]) * found.unit[last]  # type: ignore[arg-type]
    scale = came.abs().sum() / found.target[last].abs().sum()
    return ((output - found.target[last]).abs() * scale).mean()
