"""How far a leap may go along the schedule: never past its decay, its end, a rate of 0 or a turn; seldom looked at."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from lazily import transformers
from leapverify.leap.ledger import Ledger
from leapverify.leap.observer import Observer
from leapverify.leap.schedule.advance import decaying, steps_left
from leapverify.leap.schedule.lookahead import FAR, MOST, NEAR, ScheduleLookahead, limit

DELTA = 10
TOTAL = 600

CURVES: dict[str, Callable[[int], float]] = {
    "cosine": lambda t: max(0.0, 0.5 * (1.0 + math.cos(math.pi * min(t, TOTAL) / TOTAL))),
    "linear": lambda t: max(0.0, 1.0 - t / TOTAL),
    "trapezoid": lambda t: min(1.0, (t + 1) / 50, max(0.0, (TOTAL - t) / 100)),
    "constant": lambda t: 1.0,
    "warm-up": lambda t: min(1.0, t / 200),
    "drops": lambda t: 0.5 ** (t // 250),
    "restarts": lambda t: 0.55 + 0.45 * math.cos(math.pi * (t % 150) / 150),
    "bounces": lambda t: 0.5 * (1.0 + math.cos(math.pi * t / 200)),
    "slow waves": lambda t: 1.0 + 0.02 * math.cos(math.pi * t / 100),
}


class Walk:
    """A curve that is looked at along its way."""

    def __init__(self, curve: Callable[[int], float], interval: int = DELTA, end: int | None = None) -> None:
        self.curve, self.end, self.step, self.looked = curve, end, 0, 0
        self.lookahead = ScheduleLookahead(interval)

    def look(self, count: int) -> tuple[list[list[float]], int | None]:
        self.looked += count
        left = None if self.end is None else self.end - self.step
        reached = left is not None and left < count - 1
        steps = range(self.step, self.step + count)
        return [[self.curve(min(t, self.end) if reached and self.end else t) for t in steps]], left if reached else None

    def until(self, **options: Any) -> int:
        return self.lookahead.until(self.step, [self.curve(self.step)], self.look, **options)


def true_limit(curve: Callable[[int], float], step: int, **options: Any) -> int | None:
    highest = max(curve(t) for t in range(step + 1))
    return limit([curve(t) for t in range(step, 3 * TOTAL)], highest, DELTA, **options)


@pytest.mark.parametrize("leap_in_decay", [False, True])
@pytest.mark.parametrize("name", [each for each in CURVES if each != "slow waves"])
def test_it_is_exact_or_as_far_as_was_looked(name: str, leap_in_decay: bool) -> None:
    walk = Walk(CURVES[name])
    while walk.step < TOTAL:
        found, true = (
            walk.until(leap_in_decay=leap_in_decay),
            true_limit(walk.curve, walk.step, leap_in_decay=leap_in_decay),
        )
        if walk.lookahead.over:
            assert found == 0
        elif true is None or found != true:
            assert found >= NEAR * DELTA / 2
            assert true is None or found < true
        walk.step += DELTA


@pytest.mark.parametrize("name", CURVES)
def test_leaps_as_far_as_it_says_pass_nothing(name: str) -> None:
    """By the definition: no rate passed over is in decay or 0, and none rises after a fall."""
    walk, lands = Walk(CURVES[name]), [0]
    while walk.step < 2 * TOTAL:
        found, highest = walk.until(), max(walk.curve(t) for t in range(walk.step + 1))
        passed = [walk.curve(walk.step + i) for i in range(found + 1)]
        for i, rate in enumerate(passed[:-1]):
            assert rate > 0.0 or highest == 0.0
            highest = max(highest, rate)
            assert not decaying(rate, walk.curve(walk.step + i + DELTA), highest)
        top = passed.index(max(passed))
        assert all(later <= 1.001 * now for now, later in pairwise(passed[top:]))
        walk.step += max(found, DELTA)
        lands.append(walk.step)
    assert len(lands) > 4


@pytest.mark.parametrize("name", CURVES)
def test_little_is_looked_at(name: str) -> None:
    walk = Walk(CURVES[name])
    while walk.step < 4 * TOTAL:
        walk.until()
        walk.step += DELTA
    assert walk.looked < 2.5 * walk.step


def test_in_the_long_run_it_looks_far_and_seldom() -> None:
    walk = Walk(CURVES["constant"])
    walk.until()
    assert walk.looked == (DELTA + 1) + (NEAR + 1) * DELTA + 1
    while walk.step < 10_000:
        walk.until()
        walk.step += DELTA
    before = walk.looked
    assert walk.until() <= FAR * DELTA
    while walk.step < 20_000:
        assert walk.until() >= FAR * DELTA / 2
        walk.step += DELTA
    assert walk.looked - before < 2.5 * 10_000


@pytest.mark.parametrize(
    ("name", "step", "decay", "all_the_same"),
    [
        ("cosine", 0, 379, 600),  # 0.3 of the highest is reached before a tenth per interval is
        ("linear", 0, 421, 600),
        ("linear", 500, 0, 100),
        ("trapezoid", 0, 501, 600),
        ("trapezoid", 505, 0, 95),
        ("drops", 0, 240, None),
        ("restarts", 0, 45, 149),
        ("bounces", 0, 71, 200),
        ("slow waves", 0, 100, 100),
        ("warm-up", 0, None, None),
        ("constant", 0, None, None),
    ],
)
def test_where_things_happen(name: str, step: int, decay: int | None, all_the_same: int | None) -> None:
    assert true_limit(CURVES[name], step) == decay
    assert true_limit(CURVES[name], step, leap_in_decay=True) == all_the_same


def test_rules_one_by_one() -> None:
    flat = [1.0] * 40
    assert limit(flat, 1.0, 5) is None
    assert limit(flat, 1.0, 5, end=12) == 12
    assert limit(flat, 4.0, 5) == 0  # low for good
    assert limit([*flat[:20], *[0.0] * 20], 1.0, 5, leap_in_decay=True) == 20
    assert limit([*flat[:20], *[0.0] * 20], 1.0, 5) == 15  # within the interval that ends there
    assert limit([0.0] * 40, 0.0, 5) is None
    assert limit([0.0] * 40, 1.0, 5, leap_in_decay=True) == 0
    assert limit([i / 40 for i in range(40)], 0.0, 5) is None
    assert limit([*[1.0, 0.99, 0.98], *flat], 1.0, 5) == 2
    assert limit([1.0 + 1e-6 * (i % 2) for i in range(40)], 1.0, 5) is None  # rounding is no turn
    assert limit([-1.0] * 40, 1.0, 5, leap_in_decay=True) == 0


def test_the_end_counts_once_it_is_in_sight() -> None:
    walk = Walk(CURVES["constant"], end=200)
    found = []
    while walk.step <= 200:
        found.append(walk.step + walk.until())
        walk.step += DELTA
    assert found[0] == NEAR * DELTA
    assert max(found) == found[-1] == 200


def test_a_rate_that_was_not_foretold_makes_it_look_again() -> None:
    walk = Walk(CURVES["cosine"])
    walk.until()
    walk.step = 250
    assert walk.until() == 379 - 250
    walk.step = 260
    before = walk.looked
    walk.until()
    assert walk.looked == before
    walk.curve = lambda t: max(0.0, 1.0 - t / 400)  # by the user
    assert walk.until() == true_limit(walk.curve, 260) == 21
    assert walk.looked > before


def test_a_schedule_that_is_kept_after_a_leap_is_looked_at_again() -> None:
    curve = CURVES["linear"]
    walk = Walk(curve)
    walk.step = 250
    walk.until()
    walk.curve = lambda t: curve(t - 60)
    walk.step = 310
    assert walk.until() == NEAR * DELTA


def test_a_leap_over_the_highest_rate_is_remembered() -> None:
    curve = lambda t: 1.0 if 20 <= t < 25 else 0.29  # noqa: E731
    walk = Walk(curve)
    walk.until(leap_in_decay=True)
    walk.step = 40
    walk.until()
    assert walk.lookahead.highest == [1.0]
    assert walk.until() == 0


@pytest.mark.parametrize("least", [5, 300, MOST + 5])
def test_it_looks_as_far_as_is_asked(least: int) -> None:
    walk = Walk(CURVES["constant"])
    for _ in range(200):
        assert walk.until(least=least) >= least
        walk.step += DELTA
    assert walk.looked < 10 * max(walk.step, least)


def test_long_intervals_are_looked_at_all_the_same() -> None:
    walk = Walk(CURVES["constant"], interval=5000)
    assert walk.until() == 10_000


def test_frozen_groups_do_not_count_and_the_first_of_the_others_does() -> None:
    lookahead = ScheduleLookahead(DELTA)
    steps = {"frozen": lambda t: 0.0, "late": lambda t: 1.0, "early": lambda t: 1.0 if t < 40 else 0.05}

    def look(count: int) -> tuple[list[list[float]], None]:
        return [[each(t) for t in range(count)] for each in steps.values()], None

    assert lookahead.until(0, [0.0, 1.0, 1.0], look) == 30
    assert lookahead.highest == [0.0, 1.0, 1.0]
    assert not lookahead.in_decay([column[: DELTA + 1] for column in look(60)[0]])
    assert lookahead.in_decay([column[35 : 36 + DELTA] for column in look(60)[0]])
    assert lookahead.in_decay([[0.0] * 11, [0.0] * 11, [0.0] * 11])
    assert not ScheduleLookahead(DELTA).in_decay([[0.0] * 11])


@pytest.mark.parametrize("step", [1, 4, DELTA])
def test_a_warm_up_from_0_ends_nothing(step: int) -> None:
    walk = Walk(lambda t: min(1.0, t / 5) if t < 60 else 0.8)
    while walk.step < 100:
        walk.until(leap_in_decay=True)
        assert walk.until() > 0 or 50 <= walk.step < 60
        assert not walk.lookahead.over
        walk.step += step


@pytest.mark.parametrize("leap_in_decay", [False, True])
def test_after_a_rate_of_0_the_schedule_is_over_though_it_bounces(leap_in_decay: bool) -> None:
    walk = Walk(CURVES["bounces"])
    while walk.step < TOTAL:
        found = walk.until(leap_in_decay=leap_in_decay)
        assert found == 0 or walk.step + found <= 200
        walk.step += 7
    walk.curve = lambda t: 0.7  # by the user: another one
    assert walk.until() == NEAR * DELTA


def test_a_group_that_is_added_makes_it_look_again() -> None:
    lookahead = ScheduleLookahead(DELTA)
    asked: list[int] = []

    def look(groups: int) -> Callable[[int], tuple[list[list[float]], None]]:
        return lambda count: (asked.append(count), ([[1.0] * count for _ in range(groups)], None))[1]

    lookahead.until(0, [1.0], look(1))
    before = len(asked)
    lookahead.until(DELTA, [1.0, 1.0], look(2))
    assert len(asked) > before
    assert lookahead.highest == [1.0, 1.0]


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("stop", [30, 160, 400])
def test_a_resumed_walk_is_the_uninterrupted_one(name: str, stop: int) -> None:
    whole, walk, found, told = Walk(CURVES[name]), Walk(CURVES[name]), [], []
    for each, answers in ((whole, found), (walk, told)):
        for step in range(0, TOTAL, DELTA):
            if each is walk and step == stop:
                state = json.loads(json.dumps(each.lookahead.state_dict()))
                each.lookahead = ScheduleLookahead(DELTA)
                each.lookahead.load_state_dict(state)
            each.step = step
            answers.append(each.until())
    assert told == found
    assert walk.looked == whole.looked


# The observer: real schedulers, in a loop and in a hook.


class Ledgerless:
    """Stands for parts of the observer that looking at rates does not use."""

    device = torch.device("cpu")


def observer_of(optimizer: Optimizer, schedulers: Sequence[Any], interval: int = DELTA) -> Observer:
    ledger = Ledger("tokens", None, 1.0)
    nothing: Any = Ledgerless()
    return Observer(lambda: nothing, nothing, nothing, [optimizer], schedulers, ledger, interval)


def sgd() -> Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.5)


def turn(optimizer: Optimizer, scheduler: Any, count: int) -> None:
    for _ in range(count):
        optimizer.step()
        scheduler.step()


SCHEDULERS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "cosine": (lambda o: CosineAnnealingLR(o, 600), 379),
    "lambda": (lambda o: LambdaLR(o, CURVES["cosine"]), 379),
    "table": (
        lambda o: LambdaLR(o, lambda t: [1.0] * 301)[t] if False else LambdaLR(o, ([1.0] * 301).__getitem__),
        300,
    ),
    "one-cycle": (lambda o: OneCycleLR(o, 0.5, total_steps=600, pct_start=0.5), 445),
    "restarts": (lambda o: CosineAnnealingWarmRestarts(o, 300, eta_min=0.25), 299),
    "cyclic": (lambda o: CyclicLR(o, 0.1, 0.5, step_size_up=100), 125),
    "steps": (lambda o: StepLR(o, 200, gamma=0.5), 190),
    "hf-cosine": (lambda o: transformers.get_cosine_schedule_with_warmup(o, 50, 650), 429),
    "hf-wsd": (lambda o: transformers.get_wsd_schedule(o, 50, 100, num_training_steps=400), 316),
    "sequential": (
        lambda o: SequentialLR(o, [LinearLR(o, 0.1, total_iters=50), CosineAnnealingLR(o, 600)], milestones=[50]),
        429,
    ),
}


def walked(name: str, ahead: int) -> tuple[Observer, Optimizer, Any]:
    """At effective step 20; in a hook, the schedule has not followed the last step yet."""
    optimizer = sgd()
    scheduler = SCHEDULERS[name][0](optimizer)
    observer = observer_of(optimizer, [scheduler])
    observer.ahead = ahead
    turn(optimizer, scheduler, 20 - ahead)
    if ahead:
        optimizer.step()
    observer.step_rate.look(20)
    return observer, optimizer, scheduler


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_real_schedulers_in_a_loop_and_in_a_hook(name: str, ahead: int) -> None:
    observer, optimizer, scheduler = walked(name, ahead)
    expected = SCHEDULERS[name][1]
    assert observer.until_decay(20, least=500) == expected - 20
    assert observer.in_decay() is False
    turns = 20
    while turns + DELTA < 200:
        turn(optimizer, scheduler, DELTA)
        turns += DELTA
        observer.step_rate.look(turns)
        again = observer_of(optimizer, [scheduler])
        again.ahead, again.step_rate.moving = ahead, [scheduler]
        again.lookahead.highest = list(observer.lookahead.highest)
        assert observer.until_decay(turns, least=500) == again.until_decay(turns, least=500)
        assert (observer.until_decay(turns) == 0) is observer.in_decay()


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_leap_that_it_allows_does_not_break_the_loop(ahead: int) -> None:
    for name in ("table", "one-cycle"):
        observer, _, scheduler = walked(name, ahead)
        allowed = observer.until_decay(20, leap_in_decay=True, least=1000)
        assert allowed == {"table": 280, "one-cycle": 579}[name]  # the last rate of OneCycleLR is higher again
        assert steps_left([scheduler]) == (None if name == "table" else 580 + ahead)
        observer.advance(allowed)
        for _ in range(ahead + (name == "one-cycle")):
            scheduler.step()
        with pytest.raises((IndexError, ValueError)):
            scheduler.step()


def test_a_constant_schedule_costs_nothing() -> None:
    optimizer = sgd()
    for schedulers in ([], [ReduceLROnPlateau(optimizer)]):
        observer = observer_of(optimizer, schedulers)
        observer.step_rate.look(10)
        assert observer.until_decay(10) is None
        assert observer.ledger.counts["schedule"] == 0


def test_a_scheduler_that_moves_though_its_rate_does_not_is_looked_at_a_little() -> None:
    optimizer = sgd()
    scheduler = transformers.get_constant_schedule_with_warmup(optimizer, 5)
    observer = observer_of(optimizer, [scheduler])
    turn(optimizer, scheduler, 10)
    observer.step_rate.look(10)
    assert observer.until_decay(10) == NEAR * DELTA
    counts = observer.ledger.counts["schedule"]
    assert counts == 2
    turn(optimizer, scheduler, 10)
    observer.step_rate.look(20)
    assert observer.until_decay(20) == (NEAR - 1) * DELTA
    assert observer.ledger.counts["schedule"] == counts


def test_a_leap_of_the_schedule_is_taken_back_with_its_pace() -> None:
    optimizer, other = sgd(), sgd()
    scheduler, straight = CosineAnnealingLR(optimizer, 600), CosineAnnealingLR(other, 600)
    observer = observer_of(optimizer, [scheduler])
    turn(optimizer, scheduler, 10)
    observer.step_rate.look(10)
    until = observer.until_decay(10)
    moved = observer.advance(50)
    turn(optimizer, scheduler, 1)
    observer.undo(moved, since=1)
    turn(other, straight, 11)
    assert scheduler.state_dict() == straight.state_dict()
    assert observer.until_decay(11) == until - 1
    turn(optimizer, scheduler, 9)
    observer.step_rate.look(20)
    assert observer.step_rate.moving == [scheduler]


def test_a_move_that_fails_leaves_schedule_and_pace() -> None:
    optimizer = sgd()
    scheduler = LambdaLR(optimizer, ([1.0] * 20).__getitem__)
    observer = observer_of(optimizer, [scheduler])
    turn(optimizer, scheduler, 10)
    observer.step_rate.look(10)
    with pytest.raises(IndexError):
        observer.advance(10)
    assert scheduler.last_epoch == 10
    assert observer.step_rate.state_dict() == {"counts": [10], "real": 10}
    assert observer.ledger.counts["schedule"] == 1
