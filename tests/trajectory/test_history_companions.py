"""What a history feeds and forgets beside its snapshots: averages, early states, consecutive steps."""

from __future__ import annotations

import pytest
import torch

from leapverify.predict import predictor
from leapverify.trajectory.averages import PowerAverages
from leapverify.trajectory.history import History
from leapverify.trajectory.milestones import Milestones


def with_context(length: int = 3) -> History:
    like = [torch.zeros(4, 2), torch.zeros(0)]
    history = History(like, length)
    history.recent, history.averages, history.milestones = History(like, 3), PowerAverages(3), Milestones(4)
    for step in range(10, 60, 10):
        state = [torch.full((4, 2), float(step)), torch.zeros(0)]
        history.recent.push(step, state)
        history.push(step, state)
    return history


def beside(history: History) -> tuple[History, PowerAverages, Milestones]:
    assert history.recent is not None
    assert history.averages is not None
    assert history.milestones is not None
    return history.recent, history.averages, history.milestones


def test_a_push_feeds_averages_and_milestones() -> None:
    history = with_context()
    recent, averages, milestones = beside(history)
    assert (averages.step, averages.count) == (50, 5)
    assert (milestones.steps[0], milestones.steps[-1], len(milestones)) == (10, 50, 4)
    assert recent.steps == history.steps == (30, 40, 50)
    for each in milestones:
        assert torch.equal(each.tensors[0], torch.full((4, 2), float(each.step)))


def test_a_refused_push_feeds_nothing() -> None:
    history = with_context()
    _, averages, milestones = beside(history)
    with pytest.raises(ValueError, match="step 50 does not follow step 50"):
        history.push(50, [torch.zeros(4, 2), torch.zeros(0)])
    with pytest.raises(ValueError, match="the pushed weights has shape"):
        history.push(60, [torch.zeros(4, 3), torch.zeros(0)])
    assert (averages.step, milestones.steps[-1]) == (50, 50)


def test_a_reset_reaches_all_of_them() -> None:
    history = with_context()
    history.reset()
    recent, averages, milestones = beside(history)
    assert (len(history), len(recent), len(milestones), averages.count) == (0, 0, 0, 0)
    history.push(1, [torch.ones(4, 2), torch.zeros(0)])  # steps may begin again
    assert (averages.step, milestones.steps) == (1, (1,))


def test_a_branch_feeds_none_of_them() -> None:
    history = with_context()
    recent, averages, milestones = beside(history)
    with history.branch() as chain:
        chain.push(60, [torch.ones(4, 2), torch.zeros(0)])
        assert (chain.averages, chain.milestones, chain.recent) == (None, None, None)
    assert (averages.step, milestones.steps[-1], recent.steps[-1]) == (50, 50, 50)


def test_out_may_not_share_memory_with_any_of_them() -> None:
    history = with_context()
    recent, averages, milestones = beside(history)
    held = {
        "a snapshot": history[0].tensors,
        "a consecutive state": recent[0].tensors,
        "an early state": next(iter(milestones)).tensors,
        "a copy of an average": averages.states[0].tensors,
        "a running average": list(averages.state_dict().values())[2:4],
    }
    for what, out in held.items():
        before = [each.clone() for each in out]
        for target in (history, history.branch()):
            assert target.holds(out[0]), what
            with pytest.raises(ValueError, match="out shares memory with the history at position 0"):
                predictor("hold").predict(target, 5, out=out)
        assert all(torch.equal(a, b) for a, b in zip(out, before, strict=True))
    assert not history.holds(torch.zeros(4, 2))
