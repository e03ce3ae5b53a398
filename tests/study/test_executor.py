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
from executor_work import FAILURES, die, die_speaking, end_the_talk, fail, interrupt_itself, sit, succeed, talk
from leapverify.storage import NotWritten
from leapverify.study.config import ConfigError
from leapverify.study.executor import Failure, StudyError, Task, exclusive, failure_message, failure_of, run_tasks
from leapverify.study.progress import Progress, ignore


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
    tasks = [Task(seed, fail, {"seed": seed, "how": how}) for seed, how in enumerate(FAILURES)]
    failures = run_tasks(tasks, workers=workers, watcher=ignore)
    assert failures == {seed: failure_of(error) for seed, error in enumerate(FAILURES.values())}


def test_a_process_that_dies_is_reported_and_the_others_finish():
    seen: list[Progress] = []
    tasks = [
        Task(1, die, {"seed": 1}),
        Task(2, succeed, {"seed": 2}),
        Task(3, fail, {"seed": 3, "how": "value"}),
        Task(4, die_speaking, {"seed": 4}),
    ]
    failures = run_tasks(tasks, workers=2, watcher=seen.append)
    assert set(failures) == {1, 3, 4}
    assert "signal 9" in str(failures[1])
    assert str(failures[3]) == "seed 3 will not"
    assert "signal 14" in str(failures[4])
    assert any(progress.seed == 1 for progress in seen), "what it said before its death is lost"
    assert any(progress.seed == 2 and progress.phase == "done" for progress in seen)


def test_a_death_is_noticed_while_another_seed_talks_and_its_place_is_taken(tmp_path: Path):
    when: dict[int, float] = {}
    until = tmp_path / "until"
    tasks = [
        Task(1, talk, {"seed": 1, "until": until}),
        Task(2, sit, {"seed": 2, "folder": tmp_path / "2"}),
        Task(3, end_the_talk, {"seed": 3, "until": until}),
    ]

    def watch(progress: Progress) -> None:
        when.setdefault(progress.seed, time.monotonic())
        if 0 not in when and (tmp_path / "2" / "here").exists():
            when[0] = time.monotonic()
            for child in _children():
                if _holds(child, tmp_path / "2" / ".lock"):
                    os.kill(child, signal.SIGKILL)

    failures = run_tasks(tasks, workers=2, watcher=watch)
    assert set(failures) == {2}
    assert "signal 9" in str(failures[2])
    assert when[3] - when[0] < 2


def _children() -> list[int]:
    import multiprocessing

    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def _holds(pid: int, path: Path) -> bool:
    return any(link.resolve() == path.resolve() for link in Path(f"/proc/{pid}/fd").iterdir())


def test_a_death_is_noticed_though_a_grandchild_holds_the_pipes():
    began = time.monotonic()
    failures = run_tasks([Task(1, die, {"seed": 1, "grandchild": True})], workers=2, watcher=ignore)
    assert "signal 9" in str(failures[1])
    assert time.monotonic() - began < 4


def test_an_error_of_the_watcher_ends_the_workers(tmp_path: Path):
    def watch(progress: Progress) -> None:
        raise RuntimeError("the terminal is gone")

    tasks = [Task(1, sit, {"seed": 1, "folder": tmp_path}), Task(2, succeed, {"seed": 2})]
    with pytest.raises(RuntimeError, match="the terminal is gone"):
        run_tasks(tasks, workers=2, watcher=watch)
    with exclusive(tmp_path, 0.0):
        pass


def test_an_interrupt_is_for_the_parent_alone():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    tasks = [Task(seed, interrupt_itself, {"seed": seed}) for seed in (1, 2)]
    assert run_tasks(tasks, workers=2, watcher=ignore) == {}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


PARENT = """
import sys
from pathlib import Path
from executor_work import sit
from leapverify.study.executor import Task, run_tasks
from leapverify.study.progress import ignore

try:
    print("here", flush=True)
    folders = [Path(name) for name in sys.argv[1:]]
    tasks = [Task(seed, sit, {"seed": seed, "folder": folder}) for seed, folder in enumerate(folders)]
    run_tasks(tasks, workers=len(tasks), watcher=ignore)
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


def test_two_studies_cannot_write_one_folder(tmp_path: Path):
    with exclusive(tmp_path), pytest.raises(StudyError, match="in use by another study"), exclusive(tmp_path, 0.0):
        pass
    with exclusive(tmp_path, 0.0):
        pass
