"""The wall clock put hours back or forward in mid-run: no number moves, no deadline is missed, no lock breaks."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest

from leapverify import load_study, run_study
from leapverify.runs import StudyError, exclusive
from leapverify.runs import deadline as moment
from leapverify.runs.deadline import Deadline
from leapverify.study.run import deadline_of, minutes_until
from marks import slow
from micro import MICRO, same_numbers

pytestmark = pytest.mark.failure(5)
HOUR_S = 3600.0
SETTINGS = {**MICRO, "training.steps": 40, "sweep.horizons": [5], "cascade.kinds": []}


@pytest.fixture
def wall(monkeypatch):
    """Puts the wall clock forward by so many seconds; the monotonic clock runs on."""
    real, shift = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])
    return lambda seconds: shift.__setitem__(0, shift[0] + seconds)


@pytest.fixture(scope="module")
def settings(text):
    return {**SETTINGS, "data.source": f"text:{text}"}


@pytest.fixture(scope="module")
def unbroken(settings, tmp_path_factory):
    return run_study("tiny", tmp_path_factory.mktemp("clock") / "run", device="cpu", settings=settings)


@pytest.mark.parametrize("hours", [slow(-5), 5])
def test_a_run_under_a_deadline_does_not_notice(unbroken, settings, tmp_path, wall, hours):
    def step(progress):
        if progress.phase == "checkpoint":
            wall(hours * HOUR_S)

    study = run_study("tiny", tmp_path, device="cpu", settings=settings, watcher=step, minutes=30)
    same_numbers(study, unbroken)
    last = load_study(tmp_path).checkpoints[-1]
    assert 0 < last.elapsed_s < HOUR_S
    assert all(0 <= row.snapshot_s < HOUR_S for row in study.checkpoints)


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_deadline_is_as_far_off_as_before(unbroken, wall, hours):
    deadline = deadline_of(unbroken.config, 10)
    wall(hours * HOUR_S)
    assert minutes_until(deadline) == pytest.approx(10, abs=1)
    assert deadline > time.monotonic()


@pytest.mark.parametrize("hours", [-5, 5])
def test_it_arrives_in_another_process_of_this_machine(wall, hours):
    sent = pickle.dumps(Deadline.after(600))
    wall(hours * HOUR_S)
    arrived = pickle.loads(sent)
    assert isinstance(arrived, Deadline)
    assert arrived.left_s == pytest.approx(600, abs=60)


def test_on_another_machine_it_is_found_again_by_the_wall_clocks(monkeypatch):
    sent = pickle.dumps(Deadline.after(600))
    monkeypatch.setattr(moment, "machine_id", lambda: "another boot")
    monkeypatch.setattr(time, "monotonic", lambda real=time.monotonic: real() - 7777)
    arrived = pickle.loads(sent)
    assert arrived.left_s == pytest.approx(600, abs=60)


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_lock_holds_and_is_given_back(tmp_path: Path, wall, hours):
    with exclusive(tmp_path, 0.0):
        wall(hours * HOUR_S)
        with pytest.raises(StudyError, match="in use by another study"), exclusive(tmp_path, 0.0):
            pass
    with exclusive(tmp_path, 0.0):
        pass
