"""Schedules: what is foretold is what comes, and looking ahead leaves no trace."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from lazily import transformers
from leapverify.leap.schedule.advance import (
    advance,
    check_scheduler,
    count_of,
    decaying,
    look_ahead,
    steps_left,
    unwrapped,
)

STEPS = 40


def rates_of(schedulers: Sequence[Any], optimizers: Sequence[Any], count: int) -> list[list[list[float]]]:
    return look_ahead(schedulers, optimizers, count).rates


class Ramp:
    """A callable with state of its own, as LambdaLR allows."""

    def __init__(self) -> None:
        self.calls = 0
        self.seen: list[int] = []

    def __call__(self, epoch: int) -> float:
        self.calls += 1
        self.seen.append(epoch)
        return 1.0 / (1 + epoch)


def sequential(optimizer: Optimizer) -> SequentialLR:
    parts = [LinearLR(optimizer, 0.1, total_iters=5), CosineAnnealingLR(optimizer, STEPS - 5)]
    return SequentialLR(optimizer, parts, milestones=[5])


def chained(optimizer: Optimizer) -> ChainedScheduler:
    return ChainedScheduler([ConstantLR(optimizer, 0.5, total_iters=7), ExponentialLR(optimizer, 0.95)])


def nested(optimizer: Optimizer) -> ChainedScheduler:
    parts = [ConstantLR(optimizer, 0.5, total_iters=7), OneCycleLR(optimizer, 0.2, total_steps=STEPS)]
    return ChainedScheduler([SequentialLR(optimizer, parts, milestones=[8]), ExponentialLR(optimizer, 0.95)])


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "lambda": lambda o: LambdaLR(o, lambda t: 0.9**t),
    "lambda-object": lambda o: LambdaLR(o, Ramp()),
    "multiplicative": lambda o: MultiplicativeLR(o, lambda t: 0.97),
    "step": lambda o: StepLR(o, 3),
    "multistep": lambda o: MultiStepLR(o, [4, 9]),
    "cosine": lambda o: CosineAnnealingLR(o, STEPS),
    "restarts": lambda o: CosineAnnealingWarmRestarts(o, 7),
    "one-cycle": lambda o: OneCycleLR(o, 0.3, total_steps=STEPS),
    "cyclic": lambda o: CyclicLR(o, 0.01, 0.1, step_size_up=4, mode="triangular2"),
    "cyclic-custom": lambda o: CyclicLR(o, 0.01, 0.1, step_size_up=4, scale_fn=lambda x: 0.9**x),
    "sequential": sequential,
    "chained": chained,
    "nested": nested,
    "hf-cosine": lambda o: transformers.get_cosine_schedule_with_warmup(o, 5, STEPS),
    "hf-wsd": lambda o: transformers.get_wsd_schedule(o, 5, 20, num_training_steps=STEPS),
}


def optimizer_of(kind: str = "sgd", **options: Any) -> Optimizer:
    weights = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    groups = [{"params": weights[:1]}, {"params": weights[1:], "lr": 0.03}]
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=0.1, **options)
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, **options)


def turn(optimizer: Optimizer, scheduler: Any, count: int) -> None:
    for _ in range(count):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        scheduler.step()


def rates(optimizer: Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def state_of(optimizer: Optimizer, schedulers: list[Any]) -> Any:
    """Everything that stepping could have changed, by value; the parameters by identity."""
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    owned = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    flags = {k: v for k, v in vars(optimizer).items() if isinstance(v, bool | int | float | str)}
    return copy.deepcopy([groups, owned, flags, [private(each) for each in schedulers]])


def private(scheduler: Any) -> Any:
    held = {}
    for name, value in vars(scheduler).items():
        if name == "_schedulers":
            held[name] = [private(each) for each in value]
        elif name == "lr_lambdas":
            held[name] = [dict(getattr(each, "__dict__", {})) for each in value]
        elif name not in ("optimizer", "_scale_fn_ref", "_scale_fn_custom", "_anneal_func"):
            held[name] = value
    return held


@pytest.mark.parametrize("begin", [0, 1, 6, 20])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_foretold_rates_are_those_that_come_and_nothing_is_left_behind(name: str, kind: str, begin: int) -> None:
    optimizer = optimizer_of(kind)
    scheduler = SCHEDULES[name](optimizer)
    turn(optimizer, scheduler, begin)
    before, saved = state_of(optimizer, [scheduler]), copy.deepcopy(scheduler.state_dict())
    [found] = rates_of([scheduler], [optimizer], 12)
    assert state_of(optimizer, [scheduler]) == before
    if name != "lambda-object":  # its state_dict holds an object's own dict, compared above
        assert scheduler.state_dict() == saved
    for ahead in range(12):
        assert [column[ahead] for column in found] == rates(optimizer)
        turn(optimizer, scheduler, 1)


@pytest.mark.parametrize("name", ["one-cycle", "cyclic", "cosine", "nested"])
def test_rates_that_are_tensors_are_put_back_in_place(name: str) -> None:
    optimizer = optimizer_of("adamw", capturable=False)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"])
        group["foreach"] = False
    scheduler = SCHEDULES[name](optimizer)
    turn(optimizer, scheduler, 3)
    tensors = [group["lr"] for group in optimizer.param_groups]
    before = [each.clone() for each in tensors]
    [found] = rates_of([scheduler], [optimizer], 5)
    assert [group["lr"] for group in optimizer.param_groups] == tensors
    assert all(group["lr"] is each for group, each in zip(optimizer.param_groups, tensors, strict=True))
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))
    for ahead in range(5):
        assert [column[ahead] for column in found] == rates(optimizer)
        turn(optimizer, scheduler, 1)


def test_lists_and_objects_stay_the_same_objects() -> None:
    optimizer = optimizer_of()
    ramp = Ramp()
    scheduler = LambdaLR(optimizer, ramp)
    seen, lambdas, groups = ramp.seen, scheduler.lr_lambdas, optimizer.param_groups
    calls = ramp.calls
    rates_of([scheduler], [optimizer], 9)
    assert ramp.calls == calls == len(seen)
    assert ramp.seen is seen
    assert scheduler.lr_lambdas is lambdas
    assert optimizer.param_groups is groups


def test_two_optimizers_with_two_schedulers() -> None:
    first, second = optimizer_of("sgd"), optimizer_of("adamw")
    cosine = transformers.get_cosine_schedule_with_warmup(second, 5, STEPS)
    schedulers = [OneCycleLR(first, 0.3, total_steps=STEPS), cosine]
    for optimizer, scheduler in zip((first, second), schedulers, strict=True):
        turn(optimizer, scheduler, 4)
    before = [state_of(first, schedulers), state_of(second, schedulers)]
    found = rates_of(schedulers, [first, second], 10)
    assert [state_of(first, schedulers), state_of(second, schedulers)] == before
    for ahead in range(10):
        assert [[column[ahead] for column in columns] for columns in found] == [rates(first), rates(second)]
        turn(first, schedulers[0], 1)
        turn(second, schedulers[1], 1)


def test_constant_without_a_scheduler_and_with_one_that_needs_a_metric() -> None:
    optimizer = optimizer_of()
    plateau = ReduceLROnPlateau(optimizer, patience=0)
    before = state_of(optimizer, [plateau])
    for schedulers in ([], [plateau]):
        assert rates_of(schedulers, [optimizer], 3) == [[[0.1] * 3, [0.03] * 3]]
        advance(schedulers, [optimizer], 3)
    assert state_of(optimizer, [plateau]) == before
    assert rates_of([], [optimizer], 0) == [[[], []]]


def test_past_the_end_of_a_schedule_the_last_rate_stands() -> None:
    optimizer = optimizer_of()
    scheduler = OneCycleLR(optimizer, 0.3, total_steps=6)
    turn(optimizer, scheduler, 4)
    before = state_of(optimizer, [scheduler])
    assert steps_left([scheduler]) == 2
    [found] = rates_of([scheduler], [optimizer], 6)
    assert found[0][2:] == [found[0][2]] * 4
    assert state_of(optimizer, [scheduler]) == before
    with pytest.raises(ValueError, match="the schedule has 2 steps left and cannot advance by 3: leap no further"):
        advance([scheduler], [optimizer], 3)
    assert state_of(optimizer, [scheduler]) == before
    advance([scheduler], [optimizer], 2)
    assert steps_left([scheduler]) == 0


def test_steps_left_looks_inside_other_schedules() -> None:
    optimizer = optimizer_of()
    scheduler = nested(optimizer)
    assert steps_left([scheduler]) is None  # the part that ends has not begun
    turn(optimizer, scheduler, 10)
    assert steps_left([scheduler, CosineAnnealingLR(optimizer, 3)]) == STEPS - 2
    turn(optimizer, scheduler, STEPS - 2)
    with pytest.raises(ValueError, match="Tried to step"):
        scheduler.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_advancing_is_stepping(name: str) -> None:
    stepped, leapt = optimizer_of("adamw"), optimizer_of("adamw")
    one, other = SCHEDULES[name](stepped), SCHEDULES[name](leapt)
    turn(stepped, one, 9)
    turn(leapt, other, 2)
    advance([other], [leapt], 7)
    assert rates(stepped) == rates(leapt)
    assert [group["betas"] for group in stepped.param_groups] == [group["betas"] for group in leapt.param_groups]


@pytest.mark.parametrize("since", [0, 1, 3])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_move_that_is_taken_back_never_was(name: str, kind: str, since: int) -> None:
    here, there = optimizer_of(kind), optimizer_of(kind)
    scheduler, other = SCHEDULES[name](here), SCHEDULES[name](there)
    turn(here, scheduler, 5)
    turn(there, other, 5)
    moved = advance([scheduler], [here], 9)
    turn(here, scheduler, since)
    turn(there, other, since)
    for group in here.param_groups:
        group["steps"] = since  # of the optimizer's own, since the move
    moved.undo()
    moved.undo()
    assert {group.pop("steps") for group in here.param_groups} == {since}
    assert rates(here) == rates(there)
    groups = [
        [{k: v for k, v in group.items() if k != "params"} for group in each.param_groups] for each in (here, there)
    ]
    assert groups[0] == groups[1]
    if name not in ("lambda", "lambda-object", "multiplicative", "cyclic-custom", "sequential", "chained", "nested"):
        assert scheduler.state_dict() == other.state_dict()
    turn(here, scheduler, 8)
    turn(there, other, 8)
    assert rates(here) == rates(there)


def test_a_move_of_rates_that_are_tensors_is_taken_back_in_place() -> None:
    optimizer = optimizer_of("adamw", foreach=False)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"])
    scheduler = SCHEDULES["cosine"](optimizer)
    turn(optimizer, scheduler, 3)
    tensors, before = [group["lr"] for group in optimizer.param_groups], rates(optimizer)
    moved = advance([scheduler], [optimizer], 9)
    assert rates(optimizer) != before
    moved.undo()
    assert rates(optimizer) == before
    assert all(group["lr"] is each for group, each in zip(optimizer.param_groups, tensors, strict=True))


class Uncounted:
    """A schedule of one's own that keeps no count under a name that is known."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.turns = optimizer, 0

    def step(self) -> None:
        self.turns += 1
        for group in self.optimizer.param_groups:
            group["lr"] = 1.0 / self.turns


def test_a_schedule_without_a_count_is_told_the_steps_since() -> None:
    optimizer = optimizer_of()
    scheduler = Uncounted(optimizer)
    turn(optimizer, scheduler, 3)
    moved = advance([scheduler], [optimizer], 7)
    turn(optimizer, scheduler, 2)
    moved.undo(since=2)
    assert (scheduler.turns, count_of(scheduler)) == (5, None)
    assert rates(optimizer) == [0.2, 0.2]


def test_a_move_that_fails_half_way_leaves_no_trace() -> None:
    table = [0.9**t for t in range(12)]
    optimizer = optimizer_of()
    schedulers = [LambdaLR(optimizer, lambda t: table[t]), Uncounted(optimizer)]
    for each in schedulers:
        turn(optimizer, each, 4)
    before = state_of(optimizer, schedulers)
    with pytest.raises(IndexError, match="out of range"):
        advance(schedulers, [optimizer], 8)
    assert state_of(optimizer, schedulers) == before
    advance(schedulers, [optimizer], 7)
    assert [count_of(each) for each in schedulers] == [11, None]


def test_two_schedulers_of_one_optimizer_move_in_turns() -> None:
    stepped, leapt = optimizer_of(), optimizer_of()
    one = [CosineAnnealingLR(stepped, STEPS, eta_min=0.01), ExponentialLR(stepped, 0.9)]
    other = [CosineAnnealingLR(leapt, STEPS, eta_min=0.01), ExponentialLR(leapt, 0.9)]
    for _ in range(9):
        turn(stepped, SimpleNamespace(step=lambda: [each.step() for each in one]), 1)
    turn(leapt, SimpleNamespace(step=lambda: [each.step() for each in other]), 2)
    advance(other, [leapt], 7)
    assert rates(stepped) == rates(leapt)


ENDS: dict[str, Callable[[int], Any]] = {
    "table": lambda t: [1.0, 0.8, 0.6, 0.4, 0.2, 0.1][t],
    "generator": lambda t: next(iter([0.5] if t < 6 else [])),
    "complex": lambda t: (1.0 - t / 5.0) ** 0.9,
    "not a number": lambda t: 1.0 if t < 6 else float("nan"),
}


@pytest.mark.parametrize("name", ENDS)
def test_whatever_a_schedule_raises_or_gives_past_its_end_is_its_end(name: str) -> None:
    optimizer = optimizer_of()
    scheduler = LambdaLR(optimizer, ENDS[name])
    turn(optimizer, scheduler, 2)
    before = state_of(optimizer, [scheduler])
    found = look_ahead([scheduler], [optimizer], 9)
    assert state_of(optimizer, [scheduler]) == before
    assert found.end == 3
    [column, _] = found.rates[0]
    assert column[4:] == [column[3]] * 5
    assert look_ahead([scheduler], [optimizer], 4).end is None
    advance([scheduler], [optimizer], found.end)


def test_the_first_of_several_ends_counts() -> None:
    optimizer, other = optimizer_of(), optimizer_of()
    schedulers = [OneCycleLR(optimizer, 0.3, total_steps=6), LambdaLR(other, lambda t: [1.0, 0.5, 0.2][t])]
    found = look_ahead(schedulers, [optimizer, other], 9)
    assert found.end == 2
    assert found.rates[1][0] == [0.1, 0.05, *[0.1 * 0.2] * 7]
    assert len(set(found.rates[0][0])) > 3


def test_counts_are_found_inside() -> None:
    optimizer = optimizer_of()
    scheduler = nested(optimizer)
    turn(optimizer, scheduler, 3)
    assert count_of(scheduler) == 3


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_warning_though_the_optimizer_has_not_stepped_yet(name: str) -> None:
    optimizer = optimizer_of()
    scheduler = SCHEDULES[name](optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rates_of([scheduler], [optimizer], 5)
        advance([scheduler], [optimizer], 2)
    assert caught == []


def test_warnings_that_a_user_sees_once_are_not_shown_again() -> None:
    optimizer = optimizer_of()
    scheduler = sequential(optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(4):
            warnings.warn("once", UserWarning, stacklevel=1)
            rates_of([scheduler], [optimizer], 8)
    assert len(caught) == 1


@pytest.fixture
def accelerated() -> Iterator[None]:
    """Accelerate's global state, taken down again."""
    accelerate = pytest.importorskip("accelerate")
    state = pytest.importorskip("accelerate.state")
    accelerate.Accelerator(cpu=True)
    yield
    state.AcceleratorState._reset_state(True)
    state.GradientState._reset_state()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("accelerated")
def test_accelerate_wrappers_are_seen_through() -> None:
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.scheduler import AcceleratedScheduler

    optimizer = optimizer_of("adamw")
    inner = transformers.get_cosine_schedule_with_warmup(optimizer, 5, STEPS)
    scheduler, outer = AcceleratedScheduler(inner, optimizer), AcceleratedOptimizer(optimizer)
    assert unwrapped(scheduler) is inner
    check_scheduler(scheduler, [outer])
    check_scheduler(inner, [outer])
    before = state_of(optimizer, [inner])
    [found] = rates_of([scheduler], [outer], 4)
    assert state_of(optimizer, [inner]) == before
    expected = []
    for _ in range(4):
        expected.append(rates(optimizer))
        turn(optimizer, inner, 1)
    assert [list(each) for each in zip(*found, strict=True)] == expected
    advance([scheduler], [optimizer], 3)
    assert inner.last_epoch == 7


@pytest.mark.usefixtures("accelerated")
def test_more_processes_step_the_schedule_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.scheduler import AcceleratedScheduler

    optimizer = optimizer_of()
    inner = CosineAnnealingLR(optimizer, STEPS)
    scheduler = AcceleratedScheduler(inner, optimizer)
    monkeypatch.setattr("accelerate.state.AcceleratorState", lambda: SimpleNamespace(num_processes=2))
    [found] = rates_of([scheduler], [optimizer], 3)
    turn(optimizer, inner, 4)
    assert found[0][2] == rates(optimizer)[0]


def test_bad_schedulers() -> None:
    mine, other = optimizer_of("adamw"), optimizer_of("sgd")
    check_scheduler(sequential(mine), [other, mine])
    check_scheduler(ReduceLROnPlateau(mine), [mine])
    with pytest.raises(ValueError, match=r"scheduler \(CosineAnnealingLR\) is bound to another optimizer \(SGD\)"):
        check_scheduler(CosineAnnealingLR(other, 5), [mine])
    with pytest.raises(ValueError, match="has no step"):
        check_scheduler(0.1, [mine])
    with pytest.raises(ValueError, match="has no step"):
        check_scheduler(functools.partial(CosineAnnealingLR, T_max=5), [mine])
    with pytest.raises(ValueError, match="has no step"):
        check_scheduler(CosineAnnealingLR, [mine])
    with pytest.raises(ValueError, match="count = -1 steps cannot be looked at"):
        rates_of([], [mine], -1)


@pytest.mark.parametrize(
    ("now", "ahead", "highest", "expected"),
    [
        (1.0, 0.89, 1.0, True),
        (1.0, 0.91, 1.0, False),
        (0.1, 0.2, 0.1, False),  # warm-up
        (0.29, 0.28, 1.0, True),
        (0.29, 0.30, 1.0, False),  # a restart
        (0.0, 0.0, 1.0, True),
        (1.0, 1.0, 1.0, False),
    ],
)
def test_decaying(now: float, ahead: float, highest: float, expected: bool) -> None:
    assert decaying(now, ahead, highest) is expected


def test_a_wsd_schedule_decays_at_its_end_only() -> None:
    optimizer = optimizer_of()
    scheduler = transformers.get_wsd_schedule(optimizer, 5, 10, num_training_steps=30)
    highest, found = 0.0, []
    for _ in range(30):
        coming = rates_of([scheduler], [optimizer], 4)[0][0]
        highest = max(highest, coming[0])
        found.append(decaying(coming[0], coming[-1], highest))
        turn(optimizer, scheduler, 1)
    assert found[:17] == [False] * 17
    assert found[21:] == [True] * 9
