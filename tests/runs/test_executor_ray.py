"""Tasks on a Ray cluster: the same states, failures and words as in processes; Ray starts once for all of them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import executor_work
from executor_work import FAILURES
from lazily import Lazily
from leapverify.config.overrides import with_settings
from leapverify.runs import Failure, StudyError, Task, execution, failure_of
from leapverify.runs.on_ray import FOLDER
from leapverify.runs.progress import Progress, Watcher, ignore
from leapverify.study.folder import Study
from leapverify.study.run import run_study
from micro import same_numbers
from workers import Killer, same_tables, two_small_seeds

MISSING = importlib.util.find_spec("ray") is None
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MISSING, reason="ray is not installed: pip install 'leapverify[ray]'"),
]
ray = Lazily("ray")

TESTS = os.pathsep.join([str(Path(executor_work.__file__).parent), os.environ.get("PYTHONPATH", "")])
"""Where the workers find what they are to run."""


def task(seed: int, name: str, **arguments: object) -> Task:
    return Task(seed, f"executor_work:{name}", {"seed": seed, **arguments})


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster that this process has joined, which executors then use as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", TESTS)
        with execution("ray", 2).open(Path("unused"), 2):
            yield
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def serial(text, record_once) -> Study:
    return record_once("two-small-seeds", two_small_seeds(text))


def run(folder: Path, tasks: list[Task], watcher: Watcher = ignore) -> dict[int, Failure]:
    """Seed -> failure."""
    with execution("ray", 2).open(folder, 2) as executor:
        failures = executor.run(tasks, watcher)
    assert not (folder / FOLDER).exists()
    return {each.seed: failures[each.key] for each in tasks if each.key in failures}


def test_failures_are_the_same_as_in_this_process(cluster, tmp_path):
    tasks = [task(seed, "fail", how=how) for seed, how in enumerate(FAILURES)]
    assert run(tmp_path, tasks) == {seed: failure_of(error) for seed, error in enumerate(FAILURES.values())}


@pytest.mark.failure(17)
def test_killed_ray_workers_are_replaced_and_go_on_from_the_last_state(cluster, tmp_path):
    seen: list[Progress] = []
    tasks = [
        task(1, "advance", folder=str(tmp_path), deaths=[2, 6]),
        task(2, "advance", folder=str(tmp_path), deaths=[]),
        task(3, "advance", folder=str(tmp_path), deaths=[4, -1]),
    ]
    failures = run(tmp_path, tasks, seen.append)
    assert set(failures) == {3}
    assert str(failures[3]).startswith("its worker ended without a word 4 times at the same place (")
    for seed in (1, 2):
        told = [each for each in seen if each.seed == seed and not each.note]
        assert [each.step for each in told if each.phase == "checkpoint"] == list(range(1, 11))
        assert told[-1] == Progress(seed, 10, 10, "done")
    assert len([each for each in seen if each.seed == 1 and each.note]) == 2


def test_a_task_has_its_threads_and_the_drivers_folder_and_settings(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen: list[Progress] = []
    assert run(tmp_path, [task(1, "tell_threads", threads=2)], seen.append) == {}
    assert seen[0].note == f"2 1 {tmp_path}", "torch has the threads that were asked for, though Ray allows one"


def test_an_interrupted_driver_leaves_no_worker_at_work(cluster, tmp_path):
    def watch(progress: Progress) -> None:
        raise KeyboardInterrupt

    tasks = [task(1, "advance", folder=str(tmp_path), deaths=[]), task(2, "sit", folder=str(tmp_path / "2"))]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, tasks, watch)
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.failure(17)
def test_a_study_on_ray_whose_workers_are_killed_has_the_tables_of_the_serial_run(cluster, record_once, text, tmp_path):
    # Long enough that a worker is still there when its first checkpoint has been heard of.
    config, run = with_settings(two_small_seeds(text), {"training.steps": 100}), tmp_path / "ray"
    serial = record_once("two-longer-seeds", config)
    killer = Killer(run, at_step=10)
    study = run_study(config, run, device="cpu", watcher=killer, execution=execution("ray", 2))
    # Where the machine is busy, the second seed may be done before it is heard of.
    assert killer.killed
    assert len([note for note in killer.notes if "ended without a word" in note]) == len(killer.killed)
    same_numbers(study, serial)
    same_tables(run, serial.path)


DRIVER = """
import pathlib, sys
from leapverify import run_study
from leapverify.runs import execution
from workers import two_small_seeds

def watch(progress):
    if progress.phase == "checkpoint":
        print("checkpoint", flush=True)

if __name__ == "__main__":
    config, out = two_small_seeds(pathlib.Path(sys.argv[1])), sys.argv[2]
    run_study(config, out, device="cpu", watcher=watch, execution=execution(f"ray:{sys.argv[3]}"))
"""


@pytest.mark.failure(17)
def test_a_study_whose_driver_was_killed_goes_on_without_ray(cluster, serial, text, tmp_path):
    run, script = tmp_path / "run", tmp_path / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), str(text), str(run), ray.get_runtime_context().gcs_address],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": TESTS},
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "checkpoint\n"
    driver.kill()
    driver.communicate()
    study = run_study(two_small_seeds(text), run, device="cpu", execution=execution("processes"))
    same_numbers(study, serial)
    same_tables(run, serial.path)


def test_the_example_runs_as_it_stands(cluster, tmp_path):
    example = Path(__file__).resolve().parents[2] / "examples" / "ray_study.py"
    command = [sys.executable, str(example), ray.get_runtime_context().gcs_address, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.splitlines()
    assert sorted(line for line in told if line.endswith("done")) == [
        f"seed {seed}  100/100  done" for seed in (42, 43)
    ]
    assert [line.split("  held")[0] for line in told if "held-out loss" in line] == [
        f"seed {seed}  step {step}" for seed in (42, 43) for step in (50, 100)
    ]
    assert told[-1] == f"report: {tmp_path / 'run' / 'report.html'}"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere", "ray://127.0.0.1:9"])
def test_a_wrong_address_is_one_sentence(address, tmp_path, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(StudyError, match=f"no Ray cluster answers at {address} .*write ray:auto or ray:HOST:PORT"):
        execution(f"ray:{address}").open(tmp_path, 1)
    assert not any(tmp_path.iterdir())
