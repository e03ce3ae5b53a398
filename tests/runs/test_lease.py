"""The lease of a folder: processes of other machines are known by their signs of life, and no clocks are compared."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from leapverify.runs import StudyError, exclusive, lease

pytestmark = pytest.mark.failure(17)


@pytest.fixture(autouse=True)
def brisk(monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    monkeypatch.setattr(lease, "STILL_S", 0.4)


@pytest.fixture
def elsewhere(monkeypatch) -> Callable[[Path], lease.Lease]:
    """Makes the lease of a process of another machine."""

    def make(folder: Path) -> lease.Lease:
        with monkeypatch.context() as patch:
            patch.setattr(lease, "machine_id", lambda: "another")
            patch.setattr("platform.node", lambda: "node-7")
            return lease.Lease(folder)

    return make


def test_another_machine_that_lives_is_told_by_name(tmp_path, elsewhere):
    other = elsewhere(tmp_path)
    assert other.take(0.0) is None
    with (
        pytest.raises(StudyError, match=r"in use by another study \(process \d+ on node-7\): wait"),
        exclusive(tmp_path, 0),
    ):
        pass
    assert other.give_back() is None
    with exclusive(tmp_path, 0.0):
        pass


def test_waiting_for_another_machine_ends_when_it_gives_the_folder_back(tmp_path, elsewhere):
    other = elsewhere(tmp_path)
    other.take(0.0)
    other._given_back.wait(0.3)
    other.give_back()
    began = time.monotonic()
    with exclusive(tmp_path, 10.0):
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]"])
def test_a_lease_that_stands_still_is_taken_over_whatever_the_clocks_say(tmp_path, elsewhere, monkeypatch, content):
    elsewhere(tmp_path)._replace()
    if content is not None:
        (tmp_path / ".lease").write_bytes(content)
    monkeypatch.setattr("time.time", lambda: 0.0)
    with exclusive(tmp_path, 0.0):
        assert json.loads((tmp_path / ".lease").read_bytes())["host"] != "node-7"
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


def test_what_a_killed_process_of_this_machine_left_is_nobodys(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "STILL_S", 1000.0)
    lease.Lease(tmp_path)._replace()
    with exclusive(tmp_path, 0.0):
        pass


def test_who_was_taken_for_dead_is_told_and_leaves_the_lease_alone(tmp_path, elsewhere):
    other = elsewhere(tmp_path)
    told = pytest.raises(
        StudyError, match=r"was taken over by process \d+ on node-7, which saw no sign of life of this"
    )
    with told, exclusive(tmp_path, 0.0):
        other._replace()
        time.sleep(0.5)
    assert json.loads((tmp_path / ".lease").read_bytes())["host"] == "node-7"


def test_a_file_system_without_locks_has_the_lease_alone(tmp_path, elsewhere, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    other = elsewhere(tmp_path)
    other.take(0.0)
    with pytest.raises(StudyError, match="in use"), exclusive(tmp_path, 0.0):
        pass
    other.give_back()
