"""Sinks: lines that always parse, and the real loggers of others."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from leapverify.errors import NotWritten
from leapverify.leap.loggers import JsonLines, as_logger

EVENT: dict[str, Any] = {
    "step": 50,
    "status": "accepted",
    "loss_now": 2.5,
    "gain": None,
    "lower": math.nan,
    "spent": {"verify": 0.25, "predict": {"s": 1}},
    "alerts": [{"kind": "regime", "text": "…"}],
    "live": True,
}
NUMBERS = {"leap/step": 50, "leap/loss_now": 2.5, "leap/spent/verify": 0.25, "leap/spent/predict/s": 1, "leap/live": 1}


def lines(path: Path) -> list[Any]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text(encoding="utf-8").splitlines()]


def test_one_object_a_line_and_opening_twice_appends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "leap.jsonl"
    JsonLines(path).append(EVENT)
    again = JsonLines(str(path))
    again.append({"step": 100})
    again.append({"step": 150})
    assert [each["step"] for each in lines(path)] == [50, 100, 150]
    assert lines(path)[0] == EVENT | {"lower": None}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_is_not_finite_becomes_null_wherever_it_is(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "leap.jsonl"
    JsonLines(path).append({"a": value, "b": [1, value, {"c": (value, 2.0)}]})
    assert lines(path) == [{"a": None, "b": [1, None, {"c": [None, 2.0]}]}]


def test_numbers_of_numpy_paths_and_text_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "leap.jsonl"
    record = {"i": np.int64(3), "f": np.float32(0.5), "p": Path("a/b"), "t": "line\nbreak “é”", 7: False}
    JsonLines(path).append(record)
    assert lines(path) == [{"i": 3, "f": 0.5, "p": "a/b", "t": "line\nbreak “é”", "7": False}]


def test_a_line_that_a_killed_run_left_unfinished_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "leap.jsonl"
    path.write_text('{"step": 50}\n{"step": 1')
    JsonLines(path).append({"step": 150})
    first, broken, last = path.read_text().splitlines()
    assert json.loads(first) == {"step": 50}
    assert broken == '{"step": 1'
    assert json.loads(last) == {"step": 150}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_said() -> None:
    sink = JsonLines("/dev/full")
    with pytest.raises(NotWritten, match=r"/dev/full cannot be written \(No space left on device\): free some space"):
        sink.append({"step": 1})


def test_a_folder_in_its_place_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotWritten, match=r"cannot be written \(Is a directory\)"):
        JsonLines(tmp_path).append({"step": 1})
    (tmp_path / "file").touch()
    with pytest.raises(NotWritten, match=r"leap.jsonl cannot be written \((File exists|Not a directory)\)"):
        JsonLines(tmp_path / "file" / "leap.jsonl").append({"step": 1})


def test_writing_goes_on_once_there_is_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = JsonLines(tmp_path / "leap.jsonl")
    sink.append({"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", _raise(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(NotWritten):
            sink.append({"step": 2})
    sink.append({"step": 3})
    assert [each["step"] for each in lines(sink.path)] == [1, 3]


def _raise(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_only_numbers_go_to_a_function() -> None:
    found: list[Any] = []
    log = as_logger(lambda record, step: found.append((record, step)))
    log(EVENT, 50)
    log({"reason": "nothing to say", "gain": math.inf}, 100)
    assert found == [(NUMBERS, 50)]
    assert type(found[0][0]["leap/live"]) is int


def test_the_forms_of_loggers() -> None:
    calls: list[Any] = []
    forms = {
        "log": lambda record, step: calls.append(("log", record, step)),
        "log_metrics": lambda record, step: calls.append(("log_metrics", record, step)),
        "add_scalar": lambda name, value, step: calls.append(("add_scalar", {name: value}, step)),
    }
    for name, form in forms.items():
        as_logger(SimpleNamespace(**{name: form}))({"gain": 0.5}, 7)
        assert calls.pop() == (name, {"leap/gain": 0.5}, 7)
    as_logger(SimpleNamespace(log=_raise(AssertionError()), log_metrics=forms["log_metrics"]))({"gain": 0.5}, 7)
    assert calls.pop()[0] == "log_metrics"


@pytest.mark.parametrize("target", ["wandb", None, 3, object(), logging.getLogger("x")])
def test_what_is_no_logger_is_told_what_is(target: Any) -> None:
    with pytest.raises(ValueError, match=r"a \w+ is no logger: pass an object with log\(dict, step=\) \(wandb.*mlflow"):
        as_logger(target)


def test_a_class_is_no_logger() -> None:
    with pytest.raises(ValueError, match="the logger SimpleNamespace is a class: make an object of it"):
        as_logger(SimpleNamespace)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        log = as_logger(writer)
        log(EVENT, 50)
        log({"loss_now": 2.25}, 100)
    read = EventAccumulator(str(tmp_path)).Reload()
    assert set(read.Tags()["scalars"]) == set(NUMBERS)
    assert [(each.step, each.value) for each in read.Scalars("leap/loss_now")] == [(50, 2.5), (100, 2.25)]
    assert [each.value for each in read.Scalars("leap/spent/verify")] == [0.25]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tmp_path.as_uri())
    try:
        mlflow.set_experiment("leaps")
        with mlflow.start_run() as run:
            as_logger(mlflow)(EVENT, 50)
            as_logger(mlflow)({"loss_now": 2.25}, 100)
        client = mlflow.MlflowClient()
        assert client.get_run(run.info.run_id).data.metrics == NUMBERS | {"leap/loss_now": 2.25}
        history = client.get_metric_history(run.info.run_id, "leap/loss_now")
        assert [(each.step, each.value) for each in history] == [(50, 2.5), (100, 2.25)]
    finally:
        mlflow.set_tracking_uri(before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    run = wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(x_disable_stats=True, console="off"))
    try:
        as_logger(run)(EVENT, 50)
        as_logger(wandb)({"later": 1}, 100)  # a step is complete when the next one comes
        found = {name: value for name, value in dict(run.summary).items() if name.startswith("leap/")}
        assert found == NUMBERS
        assert dict(run.summary)["_step"] == 50
    finally:
        run.finish()
        wandb.teardown()


@pytest.mark.filterwarnings("ignore")
def test_a_logger_of_lightning(tmp_path: Path) -> None:
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    logger = loggers.CSVLogger(str(tmp_path), name="", version="")
    log = as_logger(logger)
    log({"loss_now": 2.5}, 50)
    log({"loss_now": 2.25}, 100)
    logger.save()
    [found] = tmp_path.rglob("metrics.csv")
    header, *rows = found.read_text().splitlines()
    assert header.split(",") == ["leap/loss_now", "step"]
    assert rows == ["2.5,50", "2.25,100"]
