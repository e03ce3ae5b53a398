"""The study as a whole: complete records, the same numbers however it was run, stopped or taken up again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from leapverify import load_study, run_study
from leapverify.config.overrides import dump_config
from leapverify.config.resolved import Resolved
from leapverify.errors import ConfigError
from leapverify.runs import StudyError, execution
from leapverify.runs.progress import Progress
from leapverify.study.resweep import sweep_study
from marks import slow
from micro import same_numbers, timeless

FILES = ("config.yaml", "environment.json", "report.html", "tables/table-01.csv", "tables/table-10.md")


class Stopped(Exception):
    """Stands for a process that ends in the middle."""


def stop_after(step: int):
    def watch(progress: Progress) -> None:
        if progress.phase == "checkpoint" and progress.step >= step:
            raise Stopped

    return watch


@pytest.fixture(scope="module")
def whole(micro_run):
    """One uninterrupted study that the tests compare with."""
    return micro_run


def test_a_study_leaves_the_run_folder_of_the_contract(whole):
    for name in FILES:
        assert (whole.path / name).is_file(), name
    snapshot = whole.path / "seed-42" / "snapshots" / "step-000050.safetensors"
    mark = json.loads(snapshot.with_suffix(".json").read_text())
    assert mark["step"] == 50
    assert len(mark["sha256"]) == 64
    assert all(tensor.dtype == torch.float32 for tensor in load_file(snapshot).values())
    fingerprints = load_file(whole.path / "seed-42" / "fingerprints.safetensors")
    assert fingerprints["step-000050"].shape == (100, 16)


def test_every_predictor_and_horizon_has_a_row_at_every_swept_checkpoint(whole):
    swept = [row.step for row in whole.checkpoints]
    names, horizons = whole.config.sweep.predictors, whole.config.sweep.horizons
    found = [(row.step, row.predictor, row.horizon) for row in whole.predictions]
    assert found == [(step, name, horizon) for step in swept for name in names for horizon in horizons]


def test_a_reader_with_pandas_alone_computes_the_same_verdicts(whole):
    rows = pd.read_parquet(whole.path / "predictions.parquet")
    curve = pd.read_parquet(whole.path / "curve.parquet").set_index("step").heldout_loss
    ok = rows[rows.status == "ok"]
    assert (ok.strict.astype(bool) == (ok.loss_predicted < ok.loss_now)).all()
    assert (ok.proximity.astype(bool) == ((ok.loss_predicted - ok.loss_now).abs() < 0.05 * ok.loss_now)).all()
    for row in ok.itertuples():
        reached = curve.get(row.step + row.horizon)
        assert (reached is None and np.isnan(row.loss_actual)) or row.loss_actual == reached


def test_hold_predicts_the_present_and_momentum_explodes(whole):
    hold = [row for row in whole.predictions if row.predictor == "hold"]
    assert all(row.loss_predicted == row.loss_now and row.strict is False for row in hold)
    momentum = [row for row in whole.predictions if row.predictor == "momentum" and row.horizon == 20]
    assert all(row.loss_predicted > 10 * row.loss_now for row in momentum)


@pytest.mark.failure(7)
def test_what_is_measured_does_not_change_what_is_trained(whole, micro, tmp_path):
    bare = micro(
        sweep__predictors=["hold"], sweep__horizons=[5], cascade__kinds=[], observe__lyapunov=True, verify__budget=8
    )
    study = run_study(bare, tmp_path / "bare", device="cpu")
    for name, tensor in study.weights(42, 60).items():
        assert torch.equal(tensor, whole.weights(42, 60)[name]), name


@pytest.mark.failure(5)
@pytest.mark.parametrize("step", [slow(10), 30, slow(50)])
def test_a_stopped_study_goes_on_to_the_same_records(whole, micro, tmp_path, step):
    config = micro()
    with pytest.raises(StudyError, match="seed 42"):
        run_study(config, tmp_path / "run", device="cpu", watcher=stop_after(step))
    same_numbers(run_study(config, tmp_path / "run", device="cpu"), whole)


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_tables(whole, micro, tmp_path):
    out, config = tmp_path / "run", tmp_path / "config.yaml"
    config.write_text(dump_config(micro()))
    script = (
        "import sys, pathlib\n"
        "from leapverify import run_study\n"
        "from leapverify.config.overrides import load_config\n"
        "def watch(progress):\n"
        "    print(progress.phase, progress.step, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    run_study(load_config(pathlib.Path(sys.argv[1])), sys.argv[2], device='cpu', watcher=watch)\n"
    )
    command = [sys.executable, "-c", script, str(config), str(out)]
    for line in ("checkpoint 20", "checkpoint 50"):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert any(output.strip() == line for output in process.stdout)
            time.sleep(0.02)
            os.kill(process.pid, signal.SIGKILL)
    same_numbers(run_study(micro(), out, device="cpu"), whole)
    for table in sorted((whole.path / "tables").glob("table-*.csv")):
        assert (out / "tables" / table.name).read_text() == table.read_text(), table.name


@pytest.mark.slow
def test_a_damaged_snapshot_is_named_and_an_earlier_one_used(whole, micro, tmp_path):
    notes: list[str] = []
    with pytest.raises(StudyError):
        run_study(micro(), tmp_path / "run", device="cpu", watcher=stop_after(40))
    path = tmp_path / "run" / "seed-42" / "snapshots" / "step-000040.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)
    study = run_study(micro(), tmp_path / "run", device="cpu", watcher=lambda p: notes.append(p.note or ""))
    assert any("step-000040.safetensors is damaged" in note for note in notes)
    assert any("going on from step 30" in note for note in notes)
    same_numbers(study, whole)


@pytest.mark.slow
def test_with_every_state_damaged_the_study_begins_again(whole, micro, tmp_path):
    with pytest.raises(StudyError):
        run_study(micro(), tmp_path / "run", device="cpu", watcher=stop_after(20))
    for path in (tmp_path / "run" / "seed-42" / "optimizer").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    same_numbers(run_study(micro(), tmp_path / "run", device="cpu"), whole)


def test_a_second_call_does_nothing(whole, micro, tmp_path):
    seen: list[Progress] = []
    copy = shutil.copytree(whole.path, tmp_path / "run")
    before = (copy / "report.html").stat().st_mtime_ns
    run_study(micro(), copy, device="cpu", watcher=seen.append)
    assert seen == []
    assert (copy / "report.html").stat().st_mtime_ns == before


def test_another_configuration_is_refused_and_nothing_lost(whole, micro, tmp_path):
    copy = shutil.copytree(whole.path, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"training.lr: 0.001 there, 0.002 now.*another --out"):
        run_study(micro(training__lr=2e-3), copy, device="cpu")
    assert load_study(copy).checkpoints


def test_a_folder_with_other_files_is_refused(micro, tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no study"):
        run_study(micro(), tmp_path, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


@pytest.mark.slow
def test_seeds_side_by_side_and_one_after_another_give_the_same(micro, tmp_path):
    config = micro(seeds=[42, 43])
    apart = run_study(config, tmp_path / "apart", device="cpu", execution=execution("processes", 2))
    serial = run_study(config, tmp_path / "serial", device="cpu", execution=execution("in-process"))
    same_numbers(serial, apart)
    assert {row.measure for row in apart.seeds} >= {"cka", "procrustes", "rsa", "agreement_modal", "loss_cv_percent"}


def test_sweeping_the_snapshots_gives_the_numbers_of_the_stream(whole, tmp_path):
    copy = shutil.copytree(whole.path, tmp_path / "run")
    assert timeless(sweep_study(copy, device="cpu").predictions) == timeless(whole.predictions)


def test_sweeping_with_other_predictors_replaces_the_rows(whole, tmp_path):
    study = load_study(shutil.copytree(whole.path, tmp_path / "run"))
    quadratic = {
        row.step: row.loss_predicted for row in study.predictions if (row.predictor, row.horizon) == ("quadratic", 5)
    }
    again = sweep_study(study.path, predictors=["taylor-2", "hold"], horizons=[5], device="cpu")
    taylor = {row.step: row.loss_predicted for row in again.predictions if row.predictor == "taylor-2"}
    assert {row.predictor for row in again.predictions} == {"taylor-2", "hold"}
    assert taylor.keys() == quadratic.keys()
    assert all(taylor[step] == pytest.approx(quadratic[step], rel=1e-5) for step in taylor if step > 20)
    assert taylor[10] is None


@pytest.mark.slow
def test_a_study_without_kept_snapshots_keeps_the_disk_small_and_cannot_be_swept(micro, tmp_path):
    config = micro(snapshots__weights="last", snapshots__optimizer="last", training__steps=100)
    study = run_study(config, tmp_path / "run", device="cpu")
    assert len(list((study.path / "seed-42" / "optimizer").glob("*.safetensors"))) <= 4
    assert len(list((study.path / "seed-42" / "snapshots").glob("*.safetensors"))) < 10
    with pytest.raises(StudyError, match=r"snapshots\.weights=all"):
        sweep_study(study.path, device="cpu")


@pytest.mark.failure(8)
def test_a_loss_that_is_no_number_ends_the_seed_in_one_sentence(micro, tmp_path):
    with pytest.raises(StudyError, match=r"training loss is nan .*lower training.lr \(now 1e\+30\)"):
        run_study(micro(training__lr=1e30, training__grad_clip=None), tmp_path / "run", device="cpu")


@pytest.mark.slow
def test_a_full_disk_ends_in_one_sentence_and_keeps_what_was_saved(whole, micro, tmp_path, monkeypatch):
    import leapverify.io.storage as storage

    written, fsync = [], os.fsync

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 40:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "fsync", full)
        with pytest.raises(StudyError, match="full"):
            run_study(micro(), tmp_path / "run", device="cpu")
    same_numbers(run_study(micro(), tmp_path / "run", device="cpu"), whole)


@pytest.mark.slow
def test_the_lyapunov_exponent_is_recorded_when_asked_for_and_survives_a_stop(micro, tmp_path):
    config = micro(observe__lyapunov=True, model__dropout=0.1)
    one = run_study(config, tmp_path / "one", device="cpu")
    assert all(np.isfinite(row.lyapunov) for row in one.checkpoints)
    with pytest.raises(StudyError):
        run_study(config, tmp_path / "two", device="cpu", watcher=stop_after(30))
    same_numbers(run_study(config, tmp_path / "two", device="cpu"), one)


@pytest.mark.parametrize("kind", ["percentile", slow("rate")])
def test_thresholds_come_from_a_calibration_run(whole, micro, tmp_path, kind):
    config = micro(regimes__thresholds=kind, regimes__calibration=str(whole.path), regimes__low=40, regimes__high=60)
    study = run_study(config, tmp_path / "run", device="cpu")
    labels = [row.regime for row in study.checkpoints]
    # The same run again, cut at its own 40th and 60th percentile of five similarities: two below, two above.
    assert labels[0] == "unknown"
    assert (labels.count("chaotic"), labels.count("stable")) == (2, 2)


def test_online_thresholds_need_no_calibration(micro, tmp_path):
    study = run_study(
        micro(regimes__thresholds="online", regimes__low=None, regimes__high=None), tmp_path, device="cpu"
    )
    assert [row.regime for row in study.checkpoints][:5] == ["unknown"] * 5


@pytest.mark.slow
def test_a_filter_says_which_parameters_predictions_move(micro, tmp_path):
    from leapverify.study.apparatus import build, open_corpus

    config = micro(sweep__moved="no-norms-embeddings")
    apparatus = build(Resolved.of(config), 42, "cpu", open_corpus(config))
    kept = set(apparatus.parameters) - set(apparatus.moved)
    assert kept == {name for name in apparatus.parameters if "wte" in name or "wpe" in name or "ln_" in name}
    study = run_study(config, tmp_path / "run", device="cpu")
    assert set(study.weights(42, 60)) == set(apparatus.parameters)
    before = timeless(study.predictions)
    assert timeless(sweep_study(study.path, device="cpu").predictions) == before
