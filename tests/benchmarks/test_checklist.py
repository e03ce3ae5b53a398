"""The check-list: list, table and files agree, and its jobs run, stop and go on at reduced size."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import checklist
import pytest
from _floors import Floors
from checklist import JOBS, SCRIPTS, owed, owed_lines, problems, standings, table

from leapverify.capacity.machine import ACCELERATORS
from leapverify.study import ladder, run
from leapverify.study.folder import SeedFolder

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / SCRIPTS
Job = Callable[..., tuple[int, dict[str, Any]]]


def _script(number: int) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"job_{number}", FOLDER / JOBS[number - 1].script)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture
def job(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Calls a job by its number: exit code and result."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["job"])

    def call(number: int, *options: str, among: tuple[str, ...] | None = None) -> tuple[int, dict[str, Any]]:
        about, script = JOBS[number - 1], _script(number)
        folders = ["--out", str(tmp_path / "out"), "--state", str(tmp_path / "state"), "--commit", "abc"]
        arguments = [*folders, "--reduced", "--device", "cpu", "--data", f"text:{text}", *options]
        parts = script.PARTS if hasattr(script, "PARTS") else script.parts(["off"])
        chosen = [part for part in parts if among is None or part.name in among]
        code = sys.modules["job"].run_job(number, chosen, arguments)
        result = json.loads((tmp_path / "out" / about.result).read_text())
        assert list(problems(result)) == []
        assert result["failed"] == {}
        return code, result

    return call


@pytest.fixture
def without_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies without their report, which takes longer than a study of this size."""

    def write(out: Path) -> Path:
        path = out / "report.html"
        path.write_text("a page")
        return path

    for module in (run, ladder):
        monkeypatch.setattr(module, "build_report", write, raising=False)


def test_every_job_has_its_script_and_every_script_its_job() -> None:
    numbered = {path.name for path in FOLDER.glob("[0-9]*.py")}
    assert numbered == {job.script for job in JOBS}
    assert [job.number for job in JOBS] == list(range(1, len(JOBS) + 1))


def test_the_table_of_the_readme_is_the_list() -> None:
    assert table(ROOT) in (FOLDER / "README.md").read_text()


def test_committed_results_are_whole() -> None:
    for path in (ROOT / checklist.RESULTS).glob("*.json"):
        assert list(problems(json.loads(path.read_text()))) == [], path.name
        assert path.name in {job.result for job in JOBS}


def _result(**changes: Any) -> dict[str, Any]:
    whole = {
        "format": 1,
        "job": 1,
        "name": "kernels",
        "command": "python",
        "commit": "abc",
        "written": "2030-01-02T03:04:05+00:00",
        "device": "cuda",
        "reduced": False,
        "text": {},
        "hardware": {"gpu": {"name": "a GPU"}},
        "versions": {},
        "calls": [],
        "left": [],
        "failed": {},
        "parts": {"machine": {"n": 1, "seconds": 1.0, "figures": {}}},
    }
    return {**whole, **changes}


def _tree(folder: Path, result: Mapping[str, Any]) -> Path:
    (folder / SCRIPTS).mkdir(parents=True)
    (folder / checklist.RESULTS).mkdir(parents=True)
    (folder / checklist.RESULTS / JOBS[0].result).write_text(json.dumps(result))
    return folder


def test_a_committed_result_of_a_gpu_is_no_longer_owed(tmp_path: Path) -> None:
    tree = _tree(tmp_path, _result())
    assert [each.job.number for each in owed(tree)] == list(range(2, len(JOBS) + 1))
    assert "2030-01-02, a GPU, abc, [01-kernels.json](../../docs/results/gpu/01-kernels.json)" in table(tree)


@pytest.mark.parametrize("changes", [{"reduced": True}, {"device": "cpu"}, {"hardware": {"gpu": None}}, {"parts": 3}])
def test_what_is_no_result_of_a_gpu_leaves_the_job_owed(tmp_path: Path, changes: dict[str, Any]) -> None:
    tree = _tree(tmp_path, _result(**changes))
    assert len(owed(tree)) == len(JOBS)
    assert standings(tree)[0].text == "owed"


def test_a_job_that_is_half_done_says_what_is_left(tmp_path: Path) -> None:
    tree = _tree(tmp_path, _result(left=["sweep", "leap"]))
    assert owed_lines(tree)[0].startswith("01 kernels      2030-01-02, a GPU, abc; owed: sweep, leap: python ")


def test_a_package_without_its_source_tree_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checklist, "source_tree", lambda: None)
    assert owed_lines() == [checklist.NO_TREE]
    with pytest.raises(ValueError, match="clone it"):
        owed()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"left": None}, "left is None"),
        ({"parts": {"machine": {"figures": {}}}}, "part machine has no n or no figures"),
        ({"left": ["machine"]}, "a part is both done and left"),
    ],
)
def test_what_a_result_lacks_is_named(changes: dict[str, Any], problem: str) -> None:
    assert problem in list(problems(_result(**changes)))
    assert list(problems([])) == ["it is no mapping"]
    assert "commit is missing" in list(problems({key: value for key, value in _result().items() if key != "commit"}))


@pytest.mark.slow
def test_kernels_go_on_with_the_parts_that_are_left(job: Job, without_pages: None) -> None:
    code, first = job(1, among=("machine", "predictors", "sweep", "fingerprint", "leap", "resume"))
    assert code == 0
    assert first["parts"]["sweep"]["figures"]["restored_bit_identical"] is True
    assert first["parts"]["leap"]["figures"] == {"accepted": 0, "bit_identical": True}
    assert first["parts"]["leap"]["n"] > 0
    for name in ("repeated", "resumed"):
        assert first["parts"]["resume"]["figures"][name]["bit_identical"] is True
    assert 0 < first["parts"]["resume"]["figures"]["stopped_at_step"] < 40
    code, second = job(1)
    assert code == 0
    assert second["calls"][1]["parts"] == ["step off"]
    assert second["parts"]["step off"]["figures"]["step_s"] > 0
    del second["parts"]["step off"]
    assert second["parts"] == first["parts"]


@pytest.mark.slow
def test_a_study_stops_and_goes_on(job: Job, without_pages: None, tmp_path: Path, text: Path) -> None:
    code, result = job(2, "--minutes", "0.0001")
    assert (code, result["left"], result["parts"]) == (3, ["study"], {})
    code, result = job(2)
    assert (code, result["left"], len(result["calls"])) == (0, [], 2)
    figures = result["parts"]["study"]["figures"]
    assert figures["steps"] == 40
    assert 0 < figures["training_step"]["floor_s"] < figures["training_step"]["step_s"]
    assert figures["checkpoints_by_regime"] == {"unknown": 1, "stable": 3}
    assert {row["criterion"] for row in figures["acceptance"]} == {"strict", "proximity", "paired"}
    assert {row["kind"] for row in figures["cascades"]} == {"chained", "trained"}
    assert result["text"] == {"data": f"text:{text.name}", "tokenizer": "bytes"}
    assert str(tmp_path) not in json.dumps(result)
    with pytest.raises(ValueError, match="was begun with other options"):
        job(2, "--set", "training.lr=0.1")


@pytest.mark.slow
def test_the_bench_reads_what_the_study_kept_and_gives_the_disk_back(job: Job, tmp_path: Path) -> None:
    small = ["--set", "training.steps=30", "--set", "sweep.horizons=[10]"]
    code, result = job(11, *small)
    assert code == 0
    (board,) = (rows for name, rows in result["parts"]["bench"]["figures"]["tables"].items() if "leaderboard" in name)
    assert {row["predictor"].split()[0] for row in board} >= {"linear", "lawa-5", "fast-forward"}
    folder = tmp_path / "state" / "11-bench-124m" / "study"
    assert (folder / "bench" / "benched.parquet").is_file()
    assert not list(folder.glob("seed-*/snapshots"))


@pytest.mark.slow
def test_the_ladder_stops_between_its_rungs_and_goes_on(job: Job, without_pages: None, tmp_path: Path) -> None:
    small = ("--set", "sweep.predictors=[linear,adam]")
    code, result = job(3, *small, among=("base",))
    assert (code, list(result["parts"])) == (0, ["base"])
    code, result = job(3, *small, "--minutes", "0.0001")
    assert (code, result["left"]) == (3, ["ladder"])
    code, result = job(3, *small)
    assert (code, result["left"]) == (0, [])
    rungs = result["parts"]["ladder"]["figures"]["rungs"]
    assert {"none", "all", "half_moments"} <= {row["variant"] for row in rungs}
    assert not any("cannot" in row["reason"] for row in rungs)


@pytest.mark.slow
def test_the_largest_model_runs_with_either_rounding_and_its_cascades(job: Job, without_pages: None) -> None:
    code, result = job(5, among=("nearest",))
    assert (code, list(result["parts"])) == (0, ["nearest"])
    code, result = job(5)
    assert (code, result["left"]) == (0, [])
    assert result["calls"][1]["parts"] == ["stochastic"]
    for part in result["parts"].values():
        assert {row["predictor"] for row in part["figures"]["cascades"]} == {"linear", "hold"}
    survival = {name: part["figures"]["update_survival"] for name, part in result["parts"].items()}
    assert all(value is None or 0 <= value <= 1 for value in survival.values())


@pytest.mark.parametrize("number", [4, 5])
def test_what_cannot_go_on_fits_a_call_by_its_floor(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    shared = importlib.import_module("job")
    options = shared.options_of(JOBS[number - 1], ["--device", "cpu"])
    config = _script(number).config(shared.Sitting(JOBS[number - 1], options, 0.0, Path()))
    device = next(each for each in ACCELERATORS if each.name.startswith("H200"))
    # At 7B a part of the ring lies in host memory; the floor of all of it there is above that of a part.
    floor_s = Floors(config, [13] * 100, host_ring=number == 5).study(device, starts=config.cascade.max_starts)
    assert config.snapshots.every is None
    assert floor_s / 0.6 / 60 < shared.MINUTES


def test_what_a_finished_seed_needs_no_more_is_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    ended, going = (SeedFolder(tmp_path / "study", seed) for seed in (1, 2))
    for folder in (ended, going):
        for path in (folder.snapshots, folder.states, folder.path / "records"):
            path.mkdir(parents=True)
    (ended.path / "done.json").write_text("{}")
    importlib.import_module("job").let_go(tmp_path)
    assert {path.name for path in ended.path.iterdir()} == {"records", "done.json"}
    assert {*going.path.iterdir()} == {going.snapshots, going.states, going.path / "records"}


def test_a_part_that_fails_does_not_keep_the_others_from_being_done(job: Job, tmp_path: Path) -> None:
    shared = importlib.import_module("job")
    folders = ["--out", str(tmp_path / "out"), "--state", str(tmp_path / "state"), "--reduced", "--device", "cpu"]

    def fail(sitting: Any) -> dict[str, Any]:
        raise RuntimeError("no such\nkernel")

    parts = [shared.Part("a", fail), shared.Part("b", lambda sitting: shared.found(3, seconds=1))]
    assert shared.run_job(9, parts, folders) == 1
    result = json.loads((tmp_path / "out" / "09-parts.json").read_text())
    assert (result["failed"], result["left"], result["parts"]["b"]["n"]) == (
        {"a": "RuntimeError: no such kernel"},
        ["a"],
        3,
    )
    parts[0] = shared.Part("a", lambda sitting: shared.found(1))
    assert shared.run_job(9, parts, folders) == 0
    result = json.loads((tmp_path / "out" / "09-parts.json").read_text())
    assert (result["failed"], result["left"], result["calls"][1]["parts"]) == ({}, [], ["a"])


@pytest.mark.slow
def test_a_job_is_one_command(tmp_path: Path, text: Path) -> None:
    folders = ["--out", str(tmp_path / "out"), "--state", str(tmp_path / "state"), "--data", f"text:{text}"]
    options = ["--reduced", "--device", "cpu", "--minutes", "0.0001"]
    command = [sys.executable, FOLDER / JOBS[1].script, *folders, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout.strip().endswith("02-study-124m.json: left: study; give the same command again")
