"""Early states: which are kept, how near one lies to every share of the run, and the buffers they take."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leapverify.trajectory.milestones import Milestones

COUNTS = pytest.mark.parametrize("count", [3, 5, 8, 12])


def filled(count: int, steps: list[int]) -> Milestones:
    milestones = Milestones(count)
    for step in steps:
        milestones.push(step, [torch.full((3,), float(step)), torch.zeros(0)])
    return milestones


@COUNTS
@pytest.mark.parametrize("every", [1, 50])
def test_a_state_lies_near_every_share_of_the_run(count: int, every: int) -> None:
    milestones = Milestones(count)
    for number in range(601):
        t = every * number
        milestones.push(t, [torch.zeros(1)])
        if number < 2 * count:
            continue
        for share in range(101):
            wanted = t * share / 100
            assert abs(milestones.nearest(wanted).step - wanted) <= t / (count - 1)


@settings(max_examples=80)
@given(gaps=st.lists(st.integers(1, 90), min_size=1, max_size=60), count=st.integers(3, 12))
def test_first_and_newest_stay_and_no_gap_is_wider_than_promised(gaps: list[int], count: int) -> None:
    steps = [sum(gaps[:n]) for n in range(len(gaps) + 1)]
    milestones = filled(count, steps)
    kept = milestones.steps
    assert (kept[0], kept[-1]) == (steps[0], steps[-1])
    assert len(kept) == len(milestones) == min(count, len(steps))
    widest = max(after - before for before, after in itertools.pairwise(kept))
    assert widest <= max(*gaps, 2 * steps[-1] / (count - 1))
    for each in milestones:
        assert torch.equal(each.tensors[0], torch.full((3,), float(each.step)))


def test_fewer_states_than_room_are_all_kept() -> None:
    assert filled(5, [0, 1, 7, 30, 31]).steps == (0, 1, 7, 30, 31)
    assert filled(5, [0, 1, 7, 30, 31, 60]).steps == (0, 7, 30, 31, 60)


def test_the_nearest_state() -> None:
    milestones = filled(5, [0, 10, 20])
    assert [milestones.nearest(step).step for step in (-5, 4.9, 5.1, 16, 999)] == [0, 0, 10, 20, 20]
    with pytest.raises(ValueError, match="no milestone has been kept so far: push one first"):
        Milestones().nearest(3)


def test_buffers_are_used_again_by_later_states_and_after_a_reset() -> None:
    milestones = filled(4, [0, 1, 2, 3])
    places = {each.tensors[0].data_ptr() for each in milestones}
    for step in range(4, 40):
        milestones.push(step, [torch.zeros(3), torch.zeros(0)])
    assert {each.tensors[0].data_ptr() for each in milestones} == places
    milestones.reset()
    assert (len(milestones), milestones.steps) == (0, ())
    for step in range(4):
        milestones.push(step, [torch.zeros(3), torch.zeros(0)])
    assert {each.tensors[0].data_ptr() for each in milestones} == places


def test_copies_are_copies_of_the_type_asked_for() -> None:
    milestones, weights = Milestones(), torch.ones(3, requires_grad=True)
    milestones.push(0, [weights], like=[torch.zeros(3, dtype=torch.bfloat16)])
    milestones.push(1, [weights])
    with torch.no_grad():
        weights.zero_()
    assert [each.tensors[0].dtype for each in milestones] == [torch.bfloat16, torch.float32]
    assert all(bool((each.tensors[0] == 1).all()) and not each.tensors[0].requires_grad for each in milestones)


def test_what_it_holds() -> None:
    milestones = filled(3, [0, 1, 2, 3])
    assert all(milestones.holds(each.tensors[0][1:]) for each in milestones)
    assert not milestones.holds(torch.zeros(3))
    assert not milestones.holds(torch.zeros(0))  # empty tensors share no memory


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="2 milestones cannot be thinned: keep at least 3"):
        Milestones(2)
    with pytest.raises(ValueError, match="step 3 does not follow step 3: push increasing steps"):
        filled(5, [0, 3, 3])
