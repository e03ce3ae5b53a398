"""What a study survives: damaged records, fingerprints and snapshots, false starts, an interrupt."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leapverify import load_study, run_study
from leapverify.config.overrides import dump_config
from leapverify.config.retention import Retention
from leapverify.errors import ConfigError
from leapverify.runs import StudyError
from leapverify.runs.progress import Progress
from leapverify.study.resweep import sweep_study
from marks import slow
from micro import MICRO, same_numbers, timeless


@pytest.fixture(scope="module")
def whole(micro_run):
    """An undamaged study."""
    return micro_run


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """A copy of it that a test may spoil."""
    shutil.copytree(whole.path, tmp_path / "run")
    return tmp_path / "run"


def spoil(path: Path) -> None:
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 4
    path.write_bytes(blob)


def reopened(copy: Path) -> None:
    """As if the study had been stopped at step 40."""
    (copy / "done.json").unlink()
    (copy / "seed-42" / "done.json").unlink()
    for folder in ("snapshots", "optimizer"):
        for step in (50, 60):
            for suffix in (".safetensors", ".json"):
                (copy / "seed-42" / folder / f"step-{step:06d}{suffix}").unlink()


def notes_of(config, out: Path) -> list[str]:
    notes: list[str] = []
    run_study(config, out, device="cpu", watcher=lambda p: notes.append(p.note) if p.note else None)
    return notes


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("predictions", "flipped"),
        slow("predictions", "deleted"),
        *(slow(name, how) for name in ("checkpoints", "curve", "cascades") for how in ("flipped", "deleted")),
    ],
)
def test_damaged_rows_in_mid_study_are_named_and_made_again(whole, copy, micro, name, how):
    reopened(copy)
    path = copy / "seed-42" / "records" / f"{name}.parquet"
    spoil(path) if how == "flipped" else path.unlink()
    notes = notes_of(micro(), copy)
    if (name, how) != ("checkpoints", "deleted"):  # without checkpoints there was nothing yet
        assert any(path.name in note and "begins again" in note for note in notes)
    same_numbers(load_study(copy), whole)


@pytest.mark.parametrize("name", [slow("checkpoints"), "predictions", slow("seeds")])
def test_a_damaged_joined_record_is_made_again_from_the_seeds(whole, copy, micro, name):
    spoil(copy / f"{name}.parquet")
    assert not any("begins again" in note for note in notes_of(micro(), copy))
    same_numbers(load_study(copy), whole)


@pytest.mark.slow
def test_a_finished_seed_with_damaged_rows_is_trained_again(whole, copy, micro):
    (copy / "done.json").unlink()
    spoil(copy / "seed-42" / "records" / "predictions.parquet")
    assert any("predictions.parquet" in note for note in notes_of(micro(), copy))
    same_numbers(load_study(copy), whole)


def test_damaged_fingerprints_are_taken_again_from_the_snapshots(whole, copy, micro):
    reopened(copy)
    spoil(copy / "seed-42" / "fingerprints.safetensors")
    notes = notes_of(micro(), copy)
    assert any("taken again from the snapshots" in note for note in notes)
    assert any("going on from step 40" in note for note in notes)
    same_numbers(load_study(copy), whole)


def test_a_damaged_snapshot_in_the_history_costs_a_few_checkpoints(whole, copy, micro):
    reopened(copy)
    spoil(copy / "seed-42" / "snapshots" / "step-000030.safetensors")
    notes = notes_of(micro(), copy)
    assert any("step-000030.safetensors" in note for note in notes)
    assert any("going on from step 20" in note for note in notes)
    same_numbers(load_study(copy), whole)


def history_of(state: int, steps: list[int], length: int) -> list[int]:
    end = steps.index(state) + 1
    return steps[max(0, end - length) : end]


@pytest.mark.parametrize("length", [1, 3, 5])
def test_whatever_single_snapshot_is_damaged_some_state_can_be_resumed(length):
    steps: list[int] = []
    snapshots: set[int] = set()
    states: set[int] = set()
    for step in range(10, 500, 10):
        steps.append(step)
        snapshots, states = ({*kept, step} for kept in (snapshots, states))
        needed_snapshots, needed_states = Retention("last", 1, length).needed_to_resume(steps)
        assert needed_snapshots <= snapshots, "something needed was deleted before"
        assert needed_states <= states
        snapshots, states = needed_snapshots, needed_states
        assert len(states) <= 4
        if len(steps) <= 2 * length + 2:
            continue
        for damaged in snapshots:
            assert any(damaged not in history_of(state, steps, length) for state in states), (step, damaged)


def test_a_mistake_before_the_first_checkpoint_can_be_corrected(micro, tmp_path):
    with pytest.raises(ConfigError, match="/nowhere"):
        run_study(micro(data__source="text:/nowhere"), tmp_path / "run", device="cpu")
    with pytest.raises(ConfigError, match="no-such-layer"):
        run_study(micro(observe__layer="no-such-layer"), tmp_path / "run", device="cpu")
    assert run_study(micro(training__steps=20), tmp_path / "run", device="cpu").checkpoints


def test_a_temporary_file_of_a_killed_write_is_no_content(micro, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".config.yaml.0123456789ab").write_text("half")
    assert run_study(micro(training__steps=20), out, device="cpu").checkpoints


def test_sweeping_again_keeps_what_it_cannot_redo(copy):
    before = timeless(load_study(copy).predictions)
    spoil(copy / "seed-42" / "snapshots" / "step-000030.safetensors")
    for path in (copy / "seed-42" / "optimizer").glob("step-00005*"):
        path.unlink()
    notes: list[str] = []
    study = sweep_study(copy, device="cpu", watcher=lambda p: notes.append(p.note or ""))
    assert timeless(study.predictions) == before
    assert any("step-000030.safetensors" in note and "earlier rows" in note for note in notes)


def test_calibration_takes_the_kind_of_similarity_that_is_cut(whole, micro, tmp_path):
    import json

    config = micro(
        observe__similarity="centred",
        regimes__thresholds="percentile",
        regimes__calibration=str(whole.path),
        regimes__low=0,
        regimes__high=100,
        training__steps=20,
    )
    study = run_study(config, tmp_path / "run", device="cpu")
    cut = json.loads((study.path / "thresholds.json").read_text())
    centred = [row.similarity_centred for row in whole.checkpoints if row.similarity_centred is not None]
    assert (cut["low"], cut["high"]) == pytest.approx((min(centred), max(centred)))


def test_the_seconds_of_all_parts_are_close_to_all_seconds(whole):
    last = whole.checkpoints[-1]
    parts = ("train", "observe", "evaluate", "sweep", "cascade", "snapshot", "lyapunov")
    spent = sum(getattr(row, f"{part}_s") for row in whole.checkpoints for part in parts)
    assert 0.7 * last.elapsed_s < spent <= last.elapsed_s


@pytest.mark.slow
def test_an_interrupt_is_one_line_and_exit_code_1(micro, tmp_path):
    path = tmp_path / "settings"
    words = [f"{key}={value}" for key, value in {**MICRO, "training.steps": 100_000}.items()]
    words.append(f"data.source={micro().data.source}")
    path.write_text(dump_config(micro()))
    command = [sys.executable, "-c", "from leapverify.cli.main import main\nif __name__ == '__main__': main()", "study"]
    process = subprocess.Popen(
        [*command, *words, "--out", str(tmp_path / "run"), "--device", "cpu"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "step 10/" in line:
            break
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.splitlines()[-1] == "leapverify: stopped; give the same command again to go on"
    assert "Traceback" not in error


@pytest.mark.slow
def test_seeds_that_are_done_say_so_when_a_study_goes_on(whole, copy, micro):
    (copy / "report.html").unlink()
    seen: list[Progress] = []
    run_study(micro(), copy, device="cpu", watcher=seen.append)
    plan, *rest = [(progress.seed, progress.phase) for progress in seen]
    assert plan == (42, "note")
    assert rest == [(42, "done")]
    (copy / "seed-42" / "done.json").unlink()
    with pytest.raises(StudyError, match="has not finished"):
        sweep_study(copy, device="cpu")
