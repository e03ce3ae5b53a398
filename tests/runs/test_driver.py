"""What the driver does for every laboratory: the order of events, who pays for a failure, when a manifest is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from leapverify.errors import ConfigError, StudyError
from leapverify.io.manifest import read_manifest
from leapverify.io.storage import read_json
from leapverify.runs import Failure, Task, exclusive, execution
from leapverify.runs.driver import (
    Runner,
    drive,
    drive_one,
    other_configuration,
    require_empty,
    rewriting,
    seed_tasks,
    write_environment,
)
from leapverify.runs.progress import ignore

HOW = {"device": "cpu", "watcher": ignore, "execution": execution("in-process")}


@dataclass
class Job:
    """A job that says when it is asked what; every seed of `failing` fails."""

    out: Path
    seeds: Sequence[int] = (1, 2)
    threads: int = 1
    failing: bool = False
    events: list[str] = field(default_factory=list)
    refused: Exception | None = None

    def tasks(self, runner: Runner) -> list[Task]:
        self.events.append("tasks")
        if self.refused is not None:
            raise self.refused
        work = "executor_work:fail" if self.failing else "executor_work:succeed"
        arguments = {"how": "value"} if self.failing else {}
        return [Task(seed, work, {**arguments, "seed": seed}, study=self.out.name) for seed in self.seeds]

    def join(self, failures: Mapping[int, Failure]) -> None:
        self.events.append(f"join without {sorted(failures)}")
        (self.out / "joined").touch()

    def result(self) -> str:
        self.events.append("result" if (self.out / "manifest.json").is_file() else "result without a manifest")
        return self.out.name


def test_a_job_is_settled_joined_listed_and_then_given(tmp_path: Path) -> None:
    job = Job(tmp_path / "one")
    assert drive_one(job, **HOW) == "one"
    assert job.events == ["tasks", "join without []", "result"]
    assert "joined" in (read_manifest(job.out) or {})


def test_what_failed_is_joined_without_and_leaves_no_manifest(tmp_path: Path) -> None:
    job = Job(tmp_path / "one", failing=True)
    with pytest.raises(ConfigError, match="seed 1: seed 3 will not; seed 2: seed 3 will not"):
        drive_one(job, **HOW)
    assert job.events == ["tasks", "join without [1, 2]"]
    assert read_manifest(job.out) is None


def test_a_job_without_tasks_is_joined_at_once(tmp_path: Path) -> None:
    job = Job(tmp_path / "one", seeds=())
    assert drive_one(job, **HOW) == "one"
    assert job.events == ["tasks", "join without []", "result"]


def test_a_job_that_fails_does_not_cost_the_others(tmp_path: Path) -> None:
    jobs = {
        "fine": Job(tmp_path / "fine", seeds=(1,)),
        "fails": Job(tmp_path / "fails", seeds=(2,), failing=True),
        "refused": Job(tmp_path / "refused", refused=StudyError("not here")),
    }
    found = drive(jobs, tmp_path, **HOW)
    assert found["fine"] == "fine"
    assert isinstance(found["fails"], ConfigError)
    assert str(found["refused"]) == "not here"


def test_a_folder_is_held_while_its_job_runs(tmp_path: Path) -> None:
    job = Job(tmp_path / "one")

    def look(failures: Mapping[int, Failure]) -> None:
        with pytest.raises(StudyError, match="in use by another study"), exclusive(job.out, patience_s=0.0):
            pass

    job.join = look  # type: ignore[method-assign]
    assert drive_one(job, **HOW) == "one"


def test_a_manifest_follows_what_is_written_anew_and_only_then(tmp_path: Path) -> None:
    with rewriting(tmp_path):
        (tmp_path / "a").write_text("1")
    assert set(read_manifest(tmp_path) or {}) == {"a"}
    with pytest.raises(KeyError), rewriting(tmp_path):
        raise KeyError
    assert read_manifest(tmp_path) is None


def test_a_job_may_run_an_earlier_round_of_tasks_in_its_folder(tmp_path: Path) -> None:
    class TwoRounds(Job):
        def tasks(self, runner: Runner) -> list[Task]:
            failures = runner.run([Task(9, "executor_work:fail", {"seed": 9, "how": "bug"})])
            self.events.append(f"first round: {failures[9].wrong_use}")
            return super().tasks(runner)

    job = TwoRounds(tmp_path / "one")
    assert drive_one(job, **HOW) == "one"
    assert job.events == ["first round: False", "tasks", "join without []", "result"]


def test_every_seed_has_one_task_of_the_same_work(tmp_path: Path) -> None:
    with execution("in-process").open(tmp_path, 1) as executor:
        one, two = seed_tasks([1, 2], "a:b", {"threads": 3}, Runner(executor, ignore, "cuda", 1), study="s")
    assert (one.arguments, two.arguments) == ({"threads": 3, "seed": 1}, {"threads": 3, "seed": 2})
    assert (one.work, one.threads, one.gpus, one.study) == ("a:b", 3, 1, "s")


def test_a_folder_of_something_else_is_refused_in_one_sentence(tmp_path: Path) -> None:
    require_empty(tmp_path / "none", "no study")
    (tmp_path / ".hidden").touch()
    require_empty(tmp_path, "no study")
    (tmp_path / "a").touch()
    with pytest.raises(ConfigError, match="is not empty and holds no study: name another --out"):
        require_empty(tmp_path, "no study")
    said = str(other_configuration(Path("runs/x"), "race", ["a: 1 there, 2 now", "b", "c", "d"], "runs/x/race"))
    assert said == (
        "runs/x holds a race with another configuration (a: 1 there, 2 now; b; c; ...): name another --out, or delete "
        "runs/x/race"
    )


def test_the_machine_that_a_run_began_on_stays_and_others_are_listed(tmp_path: Path) -> None:
    path, notes = tmp_path / "environment.json", list[str]()
    for cpu, started in (("a", 1), ("a", 2), ("b", 3)):
        write_environment(path, {"cpu": cpu, "started": started}, notes.append)
    found = read_json(path)
    assert (found["cpu"], found["started"]) == ("a", 1)
    assert [each["started"] for each in found["continued_on"]] == [3]
    assert not notes
    path.write_text("{")
    write_environment(path, {"cpu": "c"}, notes.append)
    assert read_json(path)["cpu"] == "c"
    assert notes == [f"{path} is damaged: what this machine is takes its place"]
