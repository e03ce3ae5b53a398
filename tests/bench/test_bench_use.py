"""The bench's command, its choice of predictors, and what it refuses."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from leapverify.bench.options import choose, task_of
from leapverify.bench.results import take_folder
from leapverify.bench.run import bench_predictors
from leapverify.cli.main import main
from leapverify.config.overrides import dump_config, load_config, with_settings
from leapverify.config.study import TuningConfig
from leapverify.errors import ConfigError
from leapverify.io.storage import read_json, write_json
from leapverify.predict import CATALOGUE, predictor
from leapverify.predict.catalogue import Entry
from leapverify.runs import Execution, Paused, StudyError
from leapverify.runs.in_process import InProcess
from leapverify.study.record import require_time


def test_the_whole_catalogue_is_the_default_and_what_cannot_be_made_is_left_out(monkeypatch):
    def refused():
        raise ValueError("needs a file:\n name it")

    monkeypatch.setattr("leapverify.bench.options.names", lambda: ("hold", "linear", "refused"))
    monkeypatch.setitem(CATALOGUE, "refused", Entry(refused, "", ""))
    for asked in (None, ["all"]):
        found = choose(asked, None)
        assert dict(found.labels) == {"hold": "hold", "linear": "linear"}
        assert found.left_out == {"refused": "needs a file: name it"}
    assert [*choose(["linear", "all", "taylor-2"], None).labels] == ["hold", "linear", "taylor-2"]
    with pytest.raises(ValueError, match="needs a file"):
        choose(["all", "refused"], None)


def test_every_name_of_the_catalogue_is_benched_or_left_out_with_a_reason():
    found = choose(None, None)
    assert {*CATALOGUE} <= {*found.labels, *found.left_out}
    assert all(found.left_out.values())


def test_rows_of_a_predictor_with_a_file_bear_no_path(monkeypatch, tmp_path):
    monkeypatch.setattr("leapverify.bench.options.predictor", predictor_or_file)
    monkeypatch.setattr("leapverify.bench.options.names", lambda: ("hold", "nino-mlp", "nino"))
    for name in ("nino_mlp.pt", "nino_no_posw.pt"):
        (tmp_path / name).write_bytes(b"weights")
    found = choose(None, tmp_path)
    assert found.labels == {
        "hold": "hold",
        "nino-mlp": f"nino-mlp:{tmp_path / 'nino_mlp.pt'}",
        "nino": f"nino:{tmp_path / 'nino_no_posw.pt'}",
    }
    assert {label: file["file"] for label, file in found.files.items()} == {
        "nino-mlp": "nino_mlp.pt",
        "nino": "nino_no_posw.pt",
    }
    two = choose(["wnn:a/x.safetensors", "wnn:a/y.safetensors"], None)
    assert [*two.labels] == ["wnn:x.safetensors", "wnn:y.safetensors"]
    with pytest.raises(ConfigError, match=r"would both be recorded as wnn:x\.safetensors: rename"):
        choose(["wnn:a/x.safetensors", "wnn:b/x.safetensors"], None)


def predictor_or_file(name: str):
    return name if ":" in name else predictor(name)


def test_the_task_follows_from_the_configuration(config):
    started = config.model_copy(update={"tuning": TuningConfig(start="runs/base")})
    adapted = config.model_copy(update={"tuning": TuningConfig(start="runs/base", lora_rank=4)})
    assert [task_of(each) for each in (config, started, adapted)] == ["pretrain", "finetune", "lora"]


REFUSED = {
    "an unknown predictor": ({"predictors": ["linaer"]}, ValueError, "unknown predictor 'linaer': did you mean linear"),
    "an unknown seed": ({"seeds": [7]}, ConfigError, "--seeds names 7, which is not in the study: it has 42"),
    "no checkpoints": ({"persist_every": 0}, ConfigError, "--persist-every 0 counts no checkpoints: give 1 for all"),
    "no NiNo files": (
        {"nino": Path("nowhere")},
        ConfigError,
        "--nino nowhere holds no nino_mlp.pt: name the",
    ),
    "no time": ({"minutes": 0}, ConfigError, "--minutes 0 is no time to work"),
    "no horizon": ({"horizons": [5, 5]}, ConfigError, "must name at least one thing, and each once"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_use_is_refused_in_one_sentence(copy, case):
    options, error, text = REFUSED[case]
    run = copy()
    with pytest.raises(error, match=text):
        bench_predictors(run, **{"predictors": ["hold"], "device": "cpu", **options})
    assert not (run / "bench").exists()


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"is missing: .* is no run folder of a study"):
        bench_predictors(tmp_path, device="cpu")


def test_a_study_that_kept_too_little_is_refused(copy):
    run = copy()
    config = with_settings(load_config(run / "config.yaml"), {"snapshots.optimizer": "last"})
    (run / "config.yaml").write_text(dump_config(config))
    with pytest.raises(StudyError, match=r"snapshots\.weights=all and snapshots\.optimizer=last: .* both set to all"):
        bench_predictors(run, predictors=["hold"], device="cpu")


def test_an_unfinished_seed_is_refused(copy):
    run = copy()
    (run / "seed-42" / "done.json").unlink()
    with pytest.raises(StudyError, match=r"seed 42 of .* has not finished: give its study command again first"):
        bench_predictors(run, predictors=["hold"], device="cpu")


def test_rows_that_were_made_otherwise_are_not_mixed_in(copy):
    run = copy()
    bench_predictors(run, predictors=["hold"], horizons=[5], device="cpu")
    with pytest.raises(ConfigError, match="with --persist-every 1, not 2: give that, or delete the folder"):
        bench_predictors(run, predictors=["hold"], horizons=[5], device="cpu", persist_every=2)
    path = run / "bench" / "bench.json"
    write_json(path, {**read_json(path), "files": {"wnn": {"file": "old.safetensors", "sha256": "0"}}})
    with pytest.raises(ConfigError, match=r"holds rows of wnn from another old\.safetensors"):
        take_folder(run, {"persist_every": 1, "files": {"wnn": {"file": "new.safetensors", "sha256": "1"}}})
    path.unlink()
    with pytest.raises(ConfigError, match=r"holds rows, and bench\.json, which said how they were made, is missing"):
        bench_predictors(run, predictors=["hold"], horizons=[5], device="cpu", persist_every=2)


def test_a_bench_whose_time_is_over_pauses_and_goes_on(copy, monkeypatch):
    run, asked = copy(), []

    def over(deadline, seed, step=None):
        asked.append((deadline > 0.0, step))
        if step == 20:
            require_time(1.0, seed, step)

    with monkeypatch.context() as patch:
        patch.setattr("leapverify.bench.seed.require_time", over)
        with pytest.raises(Paused, match="its time is over at step 20 of seed 42: give the same command again"):
            bench_predictors(run, predictors=["hold"], horizons=[5], device="cpu", minutes=60)
    assert asked == [(True, None), (True, 10), (True, 20)]
    assert not (run / "bench" / "predictors.parquet").exists()
    seen = []
    bench_predictors(run, predictors=["hold"], horizons=[5], device="cpu", watcher=lambda each: seen.append(each.step))
    assert seen[0] == 30
    assert (run / "bench" / "benched.parquet").is_file()


@pytest.mark.slow
def test_seeds_run_side_by_side_in_processes_that_are_told_everything(copy, monkeypatch):
    told = []

    class Listener(InProcess):
        def run(self, tasks, watcher, ended):
            told.append(tasks)
            for task in tasks:
                ended(task, None)
            return {}

    monkeypatch.setattr(Execution, "open", lambda self, folder, workers: told.append(workers) or Listener())
    run = copy()
    config = with_settings(load_config(run / "config.yaml"), {"seeds": [42, 43]})
    (run / "config.yaml").write_text(dump_config(config))
    (run / "environment.json").unlink()
    (run / "seed-43").mkdir()
    (run / "seed-43" / "done.json").write_text("{}")
    monkeypatch.setattr("leapverify.runs.executors.cpu_count", lambda: 2)
    monkeypatch.setattr("leapverify.bench.run.join", lambda *_: False)
    monkeypatch.setattr("leapverify.bench.run.SeedFolder.read_rows", lambda self: None)
    bench_predictors(run, predictors=["hold"], device="cpu")
    workers, tasks = told
    assert workers == 2
    assert [pickle.loads(pickle.dumps(task)) for task in tasks] == tasks
    assert [json.loads(json.dumps(task.arguments)) for task in tasks] == [task.arguments for task in tasks]
    assert [task.seed for task in tasks] == [42, 43]


def command(*words: object) -> int | str | None:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return left.value.code


def test_the_command_benches_and_names_the_report(copy, capsys):
    run = copy()
    words = ("bench", "predictors", run, "--predictors", "hold,linear", "--horizons", "5", "--device", "cpu")
    assert command(*words, "--persist-every", 2, "--seeds", "42") == 0
    out = capsys.readouterr().out
    assert f"report: {run / 'report.html'}" in out
    assert f"leaderboard: {run / 'tables' / 'bench-leaderboard.md'}" in out
    assert (run / "bench" / "benched.parquet").is_file()
    assert command(*words, "--persist-every", 3) == 2
    assert command("bench", "predictors", run / "nowhere") == 2
    assert command("bench", "predictors", run, "--horizons", "0") == 2
    assert "is no run folder of a study" in capsys.readouterr().err
