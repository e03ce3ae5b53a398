"""Configuration: what is refused, in which words, and what a switch stands for."""

from __future__ import annotations

import pytest

from leapverify import run_study
from leapverify.config.overrides import differences, dump_config, load_config, parse_settings, with_settings
from leapverify.config.presets import PRESETS, preset
from leapverify.config.resolved import Resolved
from leapverify.config.study import SWITCH_SETTINGS, Switches
from leapverify.errors import ConfigError, Damaged
from leapverify.runs import execution
from leapverify.study.resweep import sweep_study


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"training.speed": 1}, r"no setting 'training.speed'"),
        ({"trainin.lr": 1}, r"no setting 'trainin.lr': did you mean training"),
        ({"training.lr": -1}, r"training.lr is -1"),
        ({"training.lr.peak": 1}, r"no setting 'training.lr.peak'"),
        ({"sweep.predictors": ["lineer"]}, r"unknown predictor 'lineer': did you mean linear"),
        ({"training.warmup_steps": 5000}, r"set training.warmup_steps below training.steps"),
        ({"regimes.thresholds": "fixed"}, r"set regimes.low and regimes.high"),
        ({"regimes.thresholds": "rate"}, r"set regimes.calibration"),
        ({"verify.budget": 1}, r"set verify.budget to at least"),
        ({"training.steps": 20, "training.warmup_steps": 1}, r"below one checkpoint interval"),
        ({"training.sequence_length": 4096}, r"above the model's context"),
        ({"data.count_padding": True}, r"set data.form=padded"),
        ({"seeds": [1, 1]}, r"all different"),
        ({"model.hidden": 63}, r"no multiple of heads"),
        ({"switches.half_moment": True}, r"did you mean half_moments"),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(settings, text):
    with pytest.raises(ConfigError, match=text) as error:
        with_settings(preset("tiny"), settings)
    assert "\n" not in str(error.value)


def test_an_unknown_preset_names_a_near_one():
    with pytest.raises(ConfigError, match="did you mean gpt2-124m"):
        preset("gpt2-124")


def test_settings_are_read_as_yaml_and_numbers_as_numbers():
    assert parse_settings(["a=1e-3", "b=[1, 2]", "c=null", "d=true", "e=text:x", "f=[1e-3]"]) == {
        "a": 1e-3,
        "b": [1, 2],
        "c": None,
        "d": True,
        "e": "text:x",
        "f": [1e-3],
    }
    with pytest.raises(ConfigError, match="is not key=value"):
        parse_settings(["lr"])
    with pytest.raises(ConfigError, match="has a bad value"):
        parse_settings(["a=[1"])


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_survives_its_file(name, tmp_path):
    (tmp_path / "config.yaml").write_text(dump_config(preset(name)))
    assert load_config(tmp_path / "config.yaml") == preset(name)
    assert differences(load_config(tmp_path / "config.yaml"), preset(name)) == []


def test_a_damaged_configuration_file_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(Damaged, match=r"config\.yaml is damaged"):
        load_config(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="is no run folder"):
        load_config(tmp_path / "nowhere" / "config.yaml")


def test_every_switch_changes_something_and_only_when_on():
    base = preset("tiny")
    assert Resolved.of(base).settings is base
    assert set(SWITCH_SETTINGS) == set(Switches.model_fields)
    for name in SWITCH_SETTINGS:
        on = with_settings(base, {f"switches.{name}": True})
        changed = differences(base, Resolved.of(on).settings)
        assert len(changed) == len(SWITCH_SETTINGS[name]), (name, changed)


def test_the_papers_protocol_to_the_letter():
    for name, shape in {
        "gpt2-124m": (12, 768, 12),
        "qwen2.5-1.5b": (28, 1536, 12),
        "qwen2.5-7b": (28, 3584, 28),
    }.items():
        config = preset(name)
        t = config.training
        assert (config.model.layers, config.model.hidden, config.model.heads) == shape
        assert (t.steps, t.warmup_steps, t.batch_size, t.sequence_length) == (2000, 100, 4, 256)
        assert (t.lr, t.betas, t.weight_decay, t.schedule, t.lr_floor) == (5e-5, (0.9, 0.999), 0.01, "cosine", 0.0)
        assert config.observe.interval_steps == 50
        assert config.sweep.horizons == (5, 10, 25, 50, 75, 100)
        assert "chaotic" not in config.sweep.regimes
        assert config.cascade.shapes == ((4, 25), (2, 50), (10, 10))
        assert config.seeds == (42, 43, 44, 45, 46)
        assert config.data.source == "wikitext-103"


def test_a_config_is_resolved_once_at_each_door(micro, tmp_path, monkeypatch):
    made = []
    of = Resolved.of.__func__
    monkeypatch.setattr(Resolved, "of", classmethod(lambda cls, config: made.append(config) or of(cls, config)))
    config = micro(training__steps=20, seeds=[42, 43])
    study = run_study(config, tmp_path / "run", device="cpu", execution=execution("in-process"))
    assert made == [config] * 3, "once by the driver, once by the task of each seed"
    made.clear()
    sweep_study(study.path, device="cpu", execution=execution("in-process"))
    assert len(made) == 2, "once by the task of each seed"
