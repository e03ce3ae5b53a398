"""Which checkpoints keep a state, and a study that stops when its time is over and goes on from there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from leapverify import load_study, run_study
from leapverify.config.retention import Retention
from leapverify.errors import ConfigError
from leapverify.runs import Paused
from leapverify.study import record
from marks import slow
from micro import same_numbers


@pytest.mark.parametrize("length", [1, 3, 5])
@pytest.mark.parametrize("every", [1, 2, 3, 4, 7, 10])
def test_states_apart_keep_their_whole_rings_and_survive_any_one_damage(length, every):
    retention = Retention("last", every, length)
    steps: list[int] = []
    snapshots: set[int] = set()
    states: set[int] = set()
    for number in range(1, 70):
        steps.append(number)
        snapshots |= {number} if retention.has_snapshot(number) else set()
        states |= {number} if retention.has_state(number) else set()
        needed, kept = retention.needed_to_resume(steps)
        assert needed <= snapshots, "something needed was deleted before, or never written"
        assert kept <= states
        snapshots, states = needed, kept
        rings = {state: set(range(max(1, state - length + 1), state + 1)) for state in states}
        assert all(ring <= snapshots for ring in rings.values())
        if number > 2 * every * (length + 1):
            assert all(any(damaged not in ring for ring in rings.values()) for damaged in snapshots)


def test_no_state_at_all():
    never = Retention("last", None, 3)
    assert never.needed_to_resume([10, 20, 30]) == (set(), set())
    assert not any(never.has_snapshot(number) or never.has_state(number) for number in range(1, 9))


@pytest.fixture(scope="module")
def unbroken(micro_run):
    """A study that ran through."""
    return micro_run


@pytest.mark.failure(5)
@pytest.mark.parametrize(("every", "pauses"), [slow(1, 2), (2, 2), slow(3, 1)])
def test_stopped_again_and_again_equals_the_unbroken_run(unbroken, micro, tmp_path, every, pauses):
    config = micro(snapshots__every=every, snapshots__weights="last", snapshots__optimizer="last")
    with pytest.raises(Paused, match="its time is over before seed 42 went on: give the same command again"):
        run_study(config, tmp_path / "run", device="cpu", minutes=1e-9)
    for number in range(1, pauses + 1):
        with pause_at_states(), pytest.raises(Paused, match=f"its time is over at step {10 * every * number} of"):
            run_study(config, tmp_path / "run", device="cpu", minutes=1)
    study = run_study(config, tmp_path / "run", device="cpu")
    same_numbers(study, unbroken)
    same_numbers(load_study(tmp_path / "run"), unbroken)


@contextlib.contextmanager
def pause_at_states() -> Iterator[None]:
    """As if the time were over at every state, but not before the first one of a call."""
    real = record.require_time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "require_time", lambda _, seed, step=None: real(0.0 if step else None, seed, step))
        yield


@pytest.mark.slow
def test_a_study_that_keeps_no_state_begins_again_and_says_so(micro, tmp_path, unbroken):
    config = micro(snapshots__every=None, snapshots__weights="last", snapshots__optimizer="last")
    with pytest.raises(ConfigError, match=r"snapshots\.every is null"):
        run_study(config, tmp_path / "run", device="cpu", minutes=1)

    def interrupt(progress):
        if progress.step >= 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(config, tmp_path / "run", device="cpu", watcher=interrupt)
    notes: list[str] = []
    study = run_study(config, tmp_path / "run", device="cpu", watcher=lambda p: notes.append(p.note or ""))
    assert any("no state was kept: beginning again" in note for note in notes)
    assert not list((tmp_path / "run" / "seed-42").glob("**/step-*"))
    same_numbers(study, unbroken)


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_minutes_that_are_no_time_are_refused(micro, tmp_path, minutes):
    with pytest.raises(ConfigError, match="give a positive number of minutes"):
        run_study(micro(), tmp_path / "run", device="cpu", minutes=minutes)


def test_states_apart_and_all_snapshots_do_not_go_together(micro):
    with pytest.raises(ConfigError, match=r"snapshots\.every"):
        micro(snapshots__every=2, snapshots__weights="all")
