"""Saves overlap training: it goes on while a slow disk writes, at most one is in flight, and no number changes."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from killed_study import differences
from leapverify import run_study
from leapverify.errors import NotWritten
from leapverify.runs import Paused, StudyError
from leapverify.runs.progress import Progress
from leapverify.study.async_writer import Writer
from leapverify.study.folder import SeedFolder
from leapverify.study.record import Recorder
from micro import MICRO

pytestmark = pytest.mark.failure(1, 4)
SETTINGS = {**MICRO, "training.steps": 40, "sweep.predictors": ["hold", "linear", "lawa-3"], "cascade.kinds": []}


@pytest.fixture
def settings(text):
    return {**SETTINGS, "data.source": f"text:{text}"}


def run(settings, out: Path, **more):
    random.seed(0)
    np.random.seed(0)
    return run_study("tiny", out, device="cpu", settings=settings, **more)


def test_training_goes_on_while_a_checkpoint_is_written(settings, tmp_path, monkeypatch):
    trained, further = [0], threading.Condition()
    """The newest step: a write that waits for the one after its checkpoint ends only because training goes on."""
    met: list[bool] = []
    inside: list[int] = []
    most: list[int] = []
    write_rows, step = SeedFolder.write_rows, Recorder._step

    def slow(folder, rows):
        inside.append(1)
        most.append(len(inside))
        at = rows.checkpoints[-1].step
        if at < 40:  # after the last one there is nothing to train
            with further:
                met.append(further.wait_for(lambda: trained[0] > at, timeout=60))
        write_rows(folder, rows)
        inside.pop()

    def stepping(recorder, number):
        found = step(recorder, number)
        with further:
            trained[0] = number
            further.notify()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(SeedFolder, "write_rows", slow)
        patch.setattr(Recorder, "_step", stepping)
        run(settings, tmp_path / "overlapped")
    assert met == [True] * 3
    assert set(most) == {1}, "two saves were in flight"
    # And without overlap the same, to the bit.
    monkeypatch.setattr("leapverify.study.record.Saver.__init__", without_overlap())
    run(settings, tmp_path / "plain")
    assert differences(tmp_path / "plain", tmp_path / "overlapped") is None


def without_overlap():
    from leapverify.study.checkpointing import Saver

    real = Saver.__init__

    def init(saver, *given, **named):
        real(saver, *given, **{**named, "overlap": False})

    return init


def test_a_writer_that_fails_is_heard_at_the_next_save_in_the_same_sentence(settings, tmp_path, monkeypatch):
    writing = threading.main_thread()
    fsync, seen = os.fsync, []

    def full(descriptor):
        if threading.current_thread() is not writing:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    def watch(progress: Progress):
        if progress.phase == "checkpoint":
            seen.append(progress.step)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StudyError, match=r"cannot be written: the disk is full: free some space"):
            run(settings, tmp_path / "run", watcher=watch)
    assert seen == [10], "the error of one save is raised by the next"
    assert run(settings, tmp_path / "run").checkpoints


def test_a_writer_says_its_errors_once_and_waits_at_its_end():
    def refuse():
        raise NotWritten("the disk is full")

    with pytest.raises(NotWritten), Writer(overlap=True) as writer:
        writer.start(refuse)
    writer.wait()
    # A pause would say that nothing is lost.
    for raised, heard in ((Paused("its time is over"), NotWritten), (KeyError("something worse"), KeyError)):
        with pytest.raises(heard):
            end_with(raised, refuse)


def end_with(error, work):
    with Writer(overlap=True) as writer:
        writer.start(work)
        raise error


def test_copies_do_not_follow_what_they_were_taken_of_and_lie_where_they_lay():
    writer = Writer(overlap=True)
    weights = {"a": torch.ones(3), "b": torch.tensor(2.0, dtype=torch.float64), "none": torch.empty(0)}
    first = writer.taken("weights", weights)
    weights["a"].zero_()
    assert first["a"].tolist() == [1, 1, 1]
    again = writer.taken("weights", weights)
    assert [each.data_ptr() for each in again.values()] == [each.data_ptr() for each in first.values()]
    assert {name: each.dtype for name, each in again.items()} == {name: each.dtype for name, each in weights.items()}
    assert writer.taken("weights", {"a": torch.ones(5)})["a"].tolist() == [1] * 5
    assert writer.taken("nothing", {}) == {}
    live = Writer(overlap=False).taken("weights", weights)
    assert live["a"] is weights["a"]
