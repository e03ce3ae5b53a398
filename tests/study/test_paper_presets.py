"""The three presets of the paper end to end on a CPU: their settings and code path, at a width a test can pay for."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from leapverify import run_study
from leapverify.config.overrides import with_settings
from leapverify.config.presets import preset
from leapverify.predict import CATALOGUE
from leapverify.study.folder import Study

pytestmark = pytest.mark.slow

REDUCED = {
    "seeds": [42, 43],
    "data.tokenizer": "bytes",
    "model.layers": 2,
    "model.hidden": 32,
    "model.heads": 4,
    "model.vocab_size": 256,
    "model.context": 128,
    "training.steps": 60,
    "training.warmup_steps": 3,
    "training.sequence_length": 32,
    "training.lr": 1e-3,
    "observe.interval_steps": 10,
    "regimes.thresholds": "fixed",
    "regimes.low": 0.5,
    "regimes.high": 0.9,
    "sweep.horizons": [5, 10],
    "verify.sequences": 8,
    "verify.budget": 16,
    "verify.batch_sequences": 8,
    "verify.val_sequences": 8,
    "cascade.shapes": [[2, 5]],
}
"""Smaller numbers; no other way of doing anything."""

QWEN = {"model.intermediate": 48, "model.kv_heads": 2}
STATES = {"gpt2-124m": {50, 60}, "qwen2.5-1.5b": {40, 60}, "qwen2.5-7b": set()}


@pytest.fixture(scope="module", params=["gpt2-124m", "qwen2.5-1.5b", "qwen2.5-7b"])
def study(request, tmp_path_factory, text) -> Study:
    """One preset, whole."""
    settings = {**REDUCED, "data.source": f"text:{text}", **(QWEN if "qwen" in request.param else {})}
    if request.param == "qwen2.5-1.5b":
        settings["snapshots.every"] = 2  # ten checkpoints apart, none of six would be reached
    config = with_settings(preset(request.param), settings)
    return run_study(config, tmp_path_factory.mktemp(request.param) / "run", device="cpu")


def test_every_seed_is_recorded_swept_and_cascaded(study):
    config = study.config
    assert Counter(row.seed for row in study.checkpoints) == {42: 6, 43: 6}
    swept = Counter((row.predictor, row.horizon) for row in study.predictions)
    assert set(swept) == {(name, horizon) for name in config.sweep.predictors for horizon in (5, 10)}
    assert set(config.sweep.predictors) <= set(CATALOGUE)
    # A row says ok or why not, and after the first checkpoints nothing lacks a snapshot.
    assert {row.status for row in study.predictions if row.step > 40} <= {"ok", "nonfinite"}
    assert {row.kind for row in study.cascades} == {"chained", "trained"}, "the paper skipped these at 7B"
    assert (study.path / "report.html").is_file()
    assert all(row.loss_actual is not None for row in study.predictions if row.step + row.horizon <= 60)


def test_a_prediction_of_nothing_changes_nothing(study):
    hold = [row for row in study.predictions if row.predictor == "hold"]
    assert hold
    assert all(row.loss_predicted == row.loss_now for row in hold)


def test_what_lies_on_the_disk_is_what_the_preset_says(study):
    states = {int(path.stem.removeprefix("step-")) for path in study.seed(42).path.glob("optimizer/*.safetensors")}
    assert states == STATES[study.config.preset]
    kept = list(study.seed(42).snapshots.glob("*.safetensors"))
    assert bool(kept) == bool(states)
    kind = getattr(torch, study.config.training.weights)
    for step in states:
        assert {tensor.dtype for tensor in study.weights(42, step).values()} == {kind}


def test_the_share_of_updates_that_survive_is_recorded(study):
    shares = [row.update_survival for row in study.checkpoints]
    kept = [row.update_projection for row in study.checkpoints]
    assert all(0.0 < share <= 1.0 for share in shares)
    if study.config.training.weights == "float32":
        assert min(shares) > 0.9
        assert all(abs(each - 1) < 0.01 for each in kept)
    else:
        assert min(shares) < 0.99, "bfloat16 weights take up every update: the sample cannot be right"
