"""A recorded run read through the protocol alone: the same bits, ascending steps, sentences for what is missing."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import leapverify
from leapverify.config.overrides import dump_config, with_settings
from leapverify.config.presets import preset
from leapverify.config.resolved import Resolved
from leapverify.errors import ConfigError, Damaged
from leapverify.observe import straightness
from leapverify.study.apparatus import build, open_corpus
from leapverify.study.source import SeedTrajectory, open_trajectory
from leapverify.train.state import load_state, snapshot_path
from leapverify.trajectory.source import TrajectorySource
from micro import MICRO
from small_text import write_documents

SOURCES = {"run folder of a study": lambda study: open_trajectory(study.path)}
"""One of each format that `open_trajectory` reads."""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAPVERIFY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def study(tmp_path_factory, text):
    out = tmp_path_factory.mktemp("source") / "run"
    cheap = {
        "sweep.predictors": ["hold"],
        "cascade.kinds": [],
        "snapshots.weights": "all",
        "snapshots.optimizer": "all",
    }
    settings = {**MICRO, **cheap, "switches.lr_floor": True, "data.source": f"text:{text}"}
    return leapverify.run_study("tiny", out, device="cpu", settings=settings)


@pytest.fixture
def copy(study, tmp_path) -> Path:
    shutil.copytree(study.path, tmp_path / "run")
    return tmp_path / "run"


def straightness_of(source: TrajectorySource) -> list[float | None]:
    """The column as a reader computes it who knows nothing but the protocol."""

    def weights(step: int) -> Sequence[torch.Tensor]:
        return list(source.weights(step).values())

    windows = zip(source.steps, source.steps[1:], source.steps[2:], strict=False)
    return [None, None, *(straightness(weights(c), weights(b), weights(a)) for a, b, c in windows)]


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_keeps_the_contract(study, kind):
    source = SOURCES[kind](study)
    assert isinstance(source, TrajectorySource)
    assert source.lineage.origin
    assert source.lineage.format
    assert list(source.steps) == sorted(set(source.steps))
    names = list(source.weights(source.steps[0]))
    for step in source.steps:
        weights, state = source.weights(step), source.optimizer(step)
        assert list(weights) == names
        assert all(each.device.type == "cpu" for each in weights.values())
        if state is not None:
            assert state.step == step
            state.require_shapes(list(weights.values()))


def test_the_weights_come_back_bit_for_bit(study):
    source = open_trajectory(study.path)
    assert list(source.steps) == [row.step for row in study.checkpoints]
    config = Resolved.of(study.config)
    apparatus = build(config, study.config.seeds[0], "cpu", open_corpus(config))
    for step in source.steps:
        apparatus.train(step - 9, step - 9, 10)
        found = source.weights(step)
        assert list(found) == sorted(apparatus.parameters)
        assert all(torch.equal(found[name], each) for name, each in apparatus.parameters.items())


def test_straightness_follows_from_the_weights_alone(study):
    found = straightness_of(open_trajectory(study.path))
    recorded = [row.straightness for row in study.checkpoints]
    assert recorded[:2] == found[:2] == [None, None]
    # The order of the tensors differs, and with it the last bit of a sum.
    assert found[2:] == pytest.approx(recorded[2:], rel=1e-12)
    assert all(map(math.isfinite, found[2:]))


def test_the_optimizer_state_is_that_of_the_run(study):
    source, config = open_trajectory(study.path), Resolved.of(study.config)
    apparatus = build(config, study.config.seeds[0], "cpu", open_corpus(config))
    step = source.steps[2]
    seed = study.seed(study.config.seeds[0])
    load_state(snapshot_path(seed.states, step), apparatus.model, apparatus.optimizer, weights=source.weights(step))
    expected, found = apparatus.optimizer_state(step), source.optimizer(step)
    assert found is not None
    order = [list(apparatus.moved).index(name) for name in source.weights(step)]
    assert all(torch.equal(each, expected.m[place]) for each, place in zip(found.m, order, strict=True))
    assert all(torch.equal(each, expected.v[place]) for each, place in zip(found.v, order, strict=True))
    assert (found.steps, found.hyper, found.step) == (expected.steps, expected.hyper, step)
    assert [found.lr[0](i) for i in range(1, 80)] == [expected.lr[0](i) for i in range(1, 80)]


def test_a_state_that_was_not_kept_is_none_and_lineage_says_where_it_comes_from(study, copy):
    source = open_trajectory(copy, seed=42)
    for path in (copy / "seed-42" / "optimizer").glob("step-000020.*"):
        path.unlink()
    assert source.optimizer(20) is None
    assert source.optimizer(30) is not None
    assert source.lineage.origin == str(copy / "seed-42")
    assert (source.lineage.format, source.lineage.seed) == ("run folder of a study", 42)
    assert source.lineage.about["preset"] == "tiny"


def test_missing_and_damaged_steps_are_said_in_a_sentence(copy):
    source = open_trajectory(copy)
    path = copy / "seed-42" / "snapshots" / "step-000030.safetensors"
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 4
    path.write_bytes(blob)
    with pytest.raises(Damaged, match=r"step-000030\.safetensors is damaged: its sha256 is not"):
        source.weights(30)
    with pytest.raises(Damaged, match=r"step-000035\.safetensors is missing: .* 6 steps from 10 to 60 are there"):
        source.weights(35)
    other = SeedTrajectory(source._folder, {"wte": torch.zeros(2)})
    with pytest.raises(Damaged, match=r"is of another model: wte is absent there"):
        other.weights(20)


def test_what_cannot_be_opened_is_refused_with_what_can(study, copy, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere cannot be read as a trajectory: name the run folder of a study"):
        open_trajectory(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="has no seed 7: it has 42"):
        open_trajectory(study.path, seed=7)
    shutil.rmtree(copy / "seed-42" / "snapshots")
    with pytest.raises(
        ConfigError, match=r"seed 42 of .* keeps no weights so far: run the study with snapshots\.weights"
    ):
        open_trajectory(copy)


def test_one_of_several_seeds_has_to_be_named(tmp_path):
    several = with_settings(preset("tiny"), {**MICRO, "seeds": [1, 2]})
    (tmp_path / "config.yaml").write_text(dump_config(several))
    with pytest.raises(ConfigError, match=r"has the seeds 1, 2: say which one, such as seed=1"):
        open_trajectory(tmp_path)


def test_the_door_is_public():
    assert leapverify.open_trajectory is open_trajectory
