"""Seeds side by side: deaths are noticed, Ctrl-C ends everything quietly, and nothing outlives the study."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import executor_work
from executor_work import FAILURES
from leapverify.errors import ConfigError, NotWritten
from leapverify.runs import Failure, StudyError, Task, exclusive, execution, failure_message, failure_of
from leapverify.runs.progress import Progress, Watcher, ignore
from leapverify.runs.task import RESTARTS


def task(seed: int, name: str, **arguments: object) -> Task:
    return Task(seed, f"executor_work:{name}", {"seed": seed, **arguments})


def run(tasks: list[Task], workers: int, watcher: Watcher = ignore) -> dict[int, Failure]:
    """Seed -> failure."""
    with execution(workers=workers).open(Path("unused"), workers) as executor:
        failures = executor.run(tasks, watcher)
    return {each.seed: failures[each.key] for each in tasks if each.key in failures}


def test_what_a_failure_says():
    assert failure_message(ValueError("too\nlong")) == "too long"
    assert failure_message(OSError(28, "No space left on device")).startswith("the disk is full")
    assert failure_message(KeyError("x")) == "KeyError: 'x'"


def test_a_failure_reads_as_its_message():
    assert f"seed 3: {Failure('it will not', wrong_use=True)}" == "seed 3: it will not"


@pytest.mark.parametrize(
    ("error", "wrong_use"),
    [
        (ConfigError("seeds [] is empty"), True),
        *((FAILURES[how], how == "value") for how in FAILURES),
        (NotWritten("the disk is full"), False),
        (StudyError("the loss is nan"), False),
        (OSError(28, "No space left on device"), False),
    ],
)
def test_wrong_use_is_told_from_bad_luck(error, wrong_use):
    assert failure_of(error).wrong_use is wrong_use


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_the_same_in_this_process_and_in_another(workers):
    tasks = [task(seed, "fail", how=how) for seed, how in enumerate(FAILURES)]
    failures = run(tasks, workers)
    assert failures == {seed: failure_of(error) for seed, error in enumerate(FAILURES.values())}


@pytest.mark.slow
def test_a_process_that_dies_is_reported_and_the_others_finish():
    seen: list[Progress] = []
    tasks = [
        task(1, "die"),
        task(2, "succeed"),
        task(3, "fail", how="value"),
        task(4, "die_speaking"),
    ]
    failures = run(tasks, 2, seen.append)
    assert set(failures) == {1, 3, 4}
    assert "signal 9" in str(failures[1])
    assert str(failures[3]) == "seed 3 will not"
    assert "signal 14" in str(failures[4])
    assert any(progress.seed == 1 for progress in seen), "what it said before its death is lost"
    assert any(progress.seed == 2 and progress.phase == "done" for progress in seen)


@pytest.mark.slow
def test_a_death_is_noticed_while_another_seed_talks_and_its_place_is_taken(tmp_path: Path):
    when: dict[int, float] = {}
    until = tmp_path / "until"
    tasks = [
        task(1, "talk", until=str(until)),
        task(2, "sit_once", folder=str(tmp_path / "2")),
        task(3, "end_the_talk", until=str(until)),
    ]

    def watch(progress: Progress) -> None:
        when.setdefault(progress.seed, time.monotonic())
        if 0 not in when and (tmp_path / "2" / "here").exists():
            when[0] = time.monotonic()
            for child in _children():
                if _holds(child, tmp_path / "2" / ".lock"):
                    os.kill(child, signal.SIGKILL)

    failures = run(tasks, 2, watch)
    assert failures == {}
    assert when[3] > when[0], "the first goes on talking until the third tells it to stop"


def _children() -> list[int]:
    import multiprocessing

    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def _holds(pid: int, path: Path) -> bool:
    return any(link.resolve() == path.resolve() for link in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.slow
def test_a_death_is_noticed_though_a_grandchild_holds_the_pipes(tmp_path: Path):
    failures = run([task(1, "die", grandchild=str(tmp_path / "enough")), task(2, "succeed")], 2)
    assert not (tmp_path / "enough-never-came").exists()
    (tmp_path / "enough").touch()
    assert "signal 9" in str(failures[1])


@pytest.mark.slow
def test_an_error_of_the_watcher_ends_the_workers(tmp_path: Path):
    def watch(progress: Progress) -> None:
        raise RuntimeError("the terminal is gone")

    tasks = [task(1, "sit", folder=str(tmp_path)), task(2, "succeed")]
    with pytest.raises(RuntimeError, match="the terminal is gone"):
        run(tasks, 2, watch)
    with exclusive(tmp_path, 0.0):
        pass


@pytest.mark.slow
def test_an_interrupt_is_for_the_parent_alone():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    tasks = [task(seed, "interrupt_itself") for seed in (1, 2)]
    assert run(tasks, 2) == {}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


PARENT = """
import sys
from pathlib import Path
from leapverify.runs import Task, execution
from leapverify.runs.progress import ignore

try:
    print("here", flush=True)
    tasks = [Task(seed, "executor_work:sit", {"seed": seed, "folder": name}) for seed, name in enumerate(sys.argv[1:])]
    with execution("processes").open(Path("unused"), len(tasks)) as executor:
        executor.run(tasks, ignore)
except KeyboardInterrupt:
    sys.exit(130)
"""


def start_parent(folders: list[Path]) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(executor_work.__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, *map(str, folders)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    return process


def wait_for(folders: list[Path]) -> None:
    deadline = time.monotonic() + 20
    while not all((folder / "here").exists() for folder in folders):
        assert time.monotonic() < deadline, "the workers have not started"
        time.sleep(0.02)


@pytest.mark.slow
def test_workers_that_never_speak_end_with_their_parent(tmp_path: Path):
    folders = [tmp_path / "1", tmp_path / "2"]
    process = start_parent(folders)
    wait_for(folders)
    process.kill()
    began = time.monotonic()
    for folder in folders:
        with exclusive(folder, 3.0):
            pass
    assert time.monotonic() - began < 3
    assert process.communicate(timeout=5)[1] == ""


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.03, 0.06, 0.1, 0.2, None])
def test_an_interrupt_ends_parent_and_workers_without_a_traceback(tmp_path: Path, delay_s: float | None):
    folders = [tmp_path / "1", tmp_path / "2", tmp_path / "3"]
    process = start_parent(folders)
    if delay_s is None:
        wait_for(folders)
    else:
        time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (130, "")
    for folder in folders:
        with exclusive(folder, 0.0):
            pass


@pytest.mark.failure(17)
def test_two_studies_cannot_write_one_folder(tmp_path: Path):
    with exclusive(tmp_path), pytest.raises(StudyError, match="in use by another study"), exclusive(tmp_path, 0.0):
        pass
    with exclusive(tmp_path, 0.0):
        pass


@pytest.mark.slow
@pytest.mark.failure(17)
def test_killed_workers_are_replaced_and_go_on_from_the_last_state(tmp_path: Path):
    seen: list[Progress] = []
    tasks = [
        task(1, "advance", folder=str(tmp_path), deaths=[1, 2, 3, 4, 5, 6]),
        task(2, "advance", folder=str(tmp_path), deaths=[]),
        task(3, "advance", folder=str(tmp_path), deaths=[9]),
    ]
    assert run(tasks, 2, seen.append) == {}
    for seed in (1, 2, 3):
        assert len({(tmp_path / f"{seed}-{step}").read_text() for step in range(1, 11)}) <= 7
        steps = [each.step for each in seen if each.seed == seed and each.phase == "checkpoint"]
        assert steps == list(range(1, 11)), "a state that was there was made again"
    notes = [each.note for each in seen if each.seed == 3 and each.note]
    assert notes == ["its worker ended without a word (signal 9): begun again from its last state, 1 of 3 times"]


@pytest.mark.slow
@pytest.mark.failure(17)
def test_a_task_that_dies_always_at_the_same_place_is_given_up(tmp_path: Path):
    seen: list[Progress] = []
    tasks = [task(seed, "advance", folder=str(tmp_path), deaths=[4, -1] if seed == 1 else []) for seed in (1, 2)]
    failures = run(tasks, 2, seen.append)
    assert str(failures[1]).startswith(
        "its worker ended without a word 4 times at the same place (signal 9): if memory"
    )
    assert set(failures) == {1}
    assert len([each for each in seen if each.phase == "note"]) == RESTARTS
    assert (tmp_path / "1-3").exists()


def test_what_the_command_line_may_say(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    for text in ("auto", "10.0.0.1:6379", "ray://h:10001"):
        assert execution(f"ray:{text}").address == text
    assert (execution().kind, execution(None, 2).workers) == (None, 2)
    with pytest.raises(ValueError, match="--executor 'slurm' is unknown: use in-process, processes, ray, or ray:ADDR"):
        execution("slurm")
    with pytest.raises(ValueError, match="--executor 'ray:' is unknown"):
        execution("ray:")
    with pytest.raises(ValueError, match="--workers 0 leaves nobody to work"):
        execution(None, 0)
    with pytest.raises(ValueError, match="--workers 2 cannot be in one process: use --executor processes"):
        execution("in-process", 2)


def test_ray_that_is_missing_is_said_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package ray: pip install 'leapverify\[ray\]'"):
        execution("ray")


def test_tasks_side_by_side_follow_from_cores_and_threads(monkeypatch):
    monkeypatch.setattr("leapverify.runs.executors.cpu_count", lambda: 8)
    assert execution().side_by_side(3, 1, "cpu") == 3
    assert execution().side_by_side(20, 2, "cpu") == 4
    assert execution(None, 6).side_by_side(20, 2, "cpu") == 6
    assert execution("in-process").side_by_side(20, 2, "cpu") == 1
    assert execution().side_by_side(20, 8, "cuda") == 1


def test_the_key_of_a_task_is_that_of_what_decides_its_result():
    one, other = task(1, "sit", folder="x"), Task(1, "executor_work:sit", {"folder": "x", "seed": 1}, study="y")
    assert one.key == other.key
    assert len({one.key, task(1, "sit", folder="z").key, task(1, "sit_once", folder="x").key}) == 3
