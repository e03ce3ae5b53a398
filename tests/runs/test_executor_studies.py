"""Whole studies on other executors: the tables are those of the serial run, whoever is killed or ends first."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from leapverify.config.overrides import with_settings
from leapverify.runs import Execution, StudyError, driver, execution
from leapverify.runs.in_process import InProcess
from leapverify.runs.progress import Progress
from leapverify.study.folder import Study
from leapverify.study.preflight import threads_of_seeds
from leapverify.study.run import run_study
from micro import same_numbers
from workers import Killer, same_tables, two_small_seeds

pytestmark = pytest.mark.failure(17)
SERIAL = execution("in-process")


@pytest.fixture(scope="module")
def config(text):
    return two_small_seeds(text)


@pytest.fixture(scope="module")
def serial(config, record_once) -> Study:
    return record_once("two-small-seeds", config)


@pytest.mark.slow
def test_killed_processes_cost_nothing_but_time(config, serial, tmp_path):
    out, killer = tmp_path / "run", Killer(tmp_path / "run", at_step=20)
    study = run_study(config, out, device="cpu", watcher=killer, execution=execution("processes", 2))
    assert killer.killed  # the second may be done before it is heard of, where the machine is busy
    same_numbers(study, serial)
    same_tables(out, serial.path)


def test_a_second_driver_is_told_and_the_first_goes_on(config, serial, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "HELD_PATIENCE_S", 0.0)
    out, told = tmp_path / "run", []

    def watch(progress: Progress) -> None:
        if progress.phase == "checkpoint":
            with pytest.raises(StudyError, match=r"run is in use by another study: wait for it, or name another --out"):
                run_study(config, out, device="cpu", execution=SERIAL)
            told.append(progress.step)

    study = run_study(config, out, device="cpu", watcher=watch, execution=SERIAL)
    assert told == [10, 20, 30] * 2
    same_numbers(study, serial)


@dataclasses.dataclass(frozen=True)
class Backwards(Execution):
    """One after another, the last first."""

    def open(self, folder: Path, workers: int) -> InProcess:
        class LastFirst(InProcess):
            def run(self, tasks, *arguments):
                return super().run(tasks[::-1], *arguments)

        return LastFirst()


def test_the_order_in_which_seeds_end_does_not_matter(config, serial, tmp_path):
    study = run_study(config, tmp_path / "run", device="cpu", execution=Backwards())
    same_numbers(study, serial)
    same_tables(study.path, serial.path)


def test_a_seed_computes_with_the_same_threads_however_many_run_at_a_time(config, serial, tmp_path, monkeypatch):
    monkeypatch.setattr("leapverify.study.preflight.cpu_count", lambda: 8)
    wide = with_settings(config, {"model.hidden": 256})
    assert threads_of_seeds(config, "cpu", tmp_path) == 1
    assert threads_of_seeds(wide, "cpu", tmp_path) == 4, "cores by seeds"
    assert threads_of_seeds(wide, "cpu", serial.path) == 1, "what it began with"
