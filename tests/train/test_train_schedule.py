import math
import pickle
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leapverify.train.schedule import KINDS, Schedule

schedules = st.builds(
    Schedule,
    kind=st.sampled_from(KINDS),
    peak=st.floats(1e-6, 1.0),
    warmup_steps=st.integers(0, 30),
    total_steps=st.integers(30, 200),
    floor=st.floats(0, 1),
)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_equals_the_schedulers_of_transformers(kind: str) -> None:
    import transformers

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=5e-5)
    make = getattr(transformers, f"get_{kind}_schedule{'_with_warmup'}")
    steps = {} if kind == "constant" else {"num_training_steps": 2000}
    scheduler = make(optimizer, num_warmup_steps=100, **steps)
    schedule = Schedule(kind, 5e-5, 100, 2000)  # type: ignore[arg-type]
    for i in range(1, 2001):
        assert schedule(i) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-20)
        optimizer.step()
        scheduler.step()


@given(schedules, st.integers(1, 400))
def test_eta_lies_between_zero_and_the_peak(schedule: Schedule, i: int) -> None:
    assert 0 <= schedule(i) <= schedule.peak * (1 + 1e-12)


@given(schedules)
def test_eta_rises_through_warm_up_and_then_never(schedule: Schedule) -> None:
    rates = [schedule(i) for i in range(1, 300)]
    warm, after = rates[: schedule.warmup_steps], rates[schedule.warmup_steps :]
    assert warm == [schedule.peak * i / schedule.warmup_steps for i in range(schedule.warmup_steps)]
    assert all(a >= b for a, b in pairwise(after))


@given(schedules, st.integers(0, 50))
def test_the_decay_ends_at_the_floor_and_stays(schedule: Schedule, beyond: int) -> None:
    end = schedule.peak * (1.0 if schedule.kind == "constant" else schedule.floor)
    if schedule.total_steps > schedule.warmup_steps:
        assert schedule(schedule.total_steps + 1 + beyond) == pytest.approx(end, rel=1e-9, abs=1e-15)


def test_wsd_is_flat_until_its_decay() -> None:
    schedule = Schedule("wsd", 1.0, 10, 100, floor=0.1, decay_steps=40)
    assert {schedule(i) for i in range(11, 62)} == {1.0}
    assert schedule(61 + 10) == pytest.approx(1 - 0.9 * math.sqrt(0.25))
    assert schedule(101) == pytest.approx(0.1)
    assert Schedule("wsd", 1.0, 0, 100)(81) == 1.0 > Schedule("wsd", 1.0, 0, 100)(82)


@given(schedules, st.integers(0, 100), st.integers(0, 60), st.integers(0, 60))
def test_sums_add_up(schedule: Schedule, step: int, first: int, second: int) -> None:
    together = schedule.sum(step, first + second)
    assert together == pytest.approx(schedule.sum(step, first) + schedule.sum(step + first, second), rel=1e-9)
    assert schedule.sum(step, 1) == schedule(step + 1)


def test_it_travels_to_other_processes() -> None:
    schedule = Schedule("cosine", 1e-3, 5, 50)
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "cos"}, "schedule 'cos' is unknown: give one of cosine, constant, linear, wsd"),
        ({"peak": 0.0}, "peak learning rate 0.0 is not positive and finite"),
        ({"peak": math.nan}, "peak learning rate nan is not positive and finite"),
        ({"warmup_steps": -1}, "-1 warm-up and 50 total steps: give at least 0 and 1"),
        ({"total_steps": 0}, "5 warm-up and 0 total steps: give at least 0 and 1"),
        ({"floor": 1.5}, "floor 1.5 is no share of the peak: give one from 0 to 1"),
        ({"decay_steps": 51}, "decay_steps 51 is not from 1 to the 50 total steps"),
    ],
)
def test_bad_numbers_are_refused(change: dict[str, object], text: str) -> None:
    given_: dict[str, object] = {"kind": "cosine", "peak": 1e-3, "warmup_steps": 5, "total_steps": 50}
    with pytest.raises(ValueError, match=text):
        Schedule(**given_ | change)  # type: ignore[arg-type]


def test_step_zero_does_not_exist() -> None:
    with pytest.raises(ValueError, match="optimizer step 0 does not exist: they are numbered from 1"):
        Schedule("cosine", 1e-3, 5, 50)(0)
