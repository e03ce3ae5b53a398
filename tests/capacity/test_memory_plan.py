"""The memory plan by itself: what it adds up, where it puts the ring, what it says when something does not fit."""

from __future__ import annotations

import pytest
import torch

from leapverify.capacity.activations import ModelShapes, model_shapes, shapes_of
from leapverify.capacity.buffers import branch_snapshots
from leapverify.capacity.cost import cost, vocabulary_of
from leapverify.capacity.memory import CASCADE, GB, PHASES, TRAINING, Room
from leapverify.capacity.plan import memory_plan, options
from leapverify.config.overrides import with_settings
from leapverify.config.presets import PRESETS, preset
from leapverify.config.resolved import Resolved
from leapverify.config.study import StudyConfig
from leapverify.train.models import build_model, parameter_count
from leapverify.trajectory.history import History

PAPER = [name for name in PRESETS if not name.startswith("tiny")]
AMPLE = 10**15


def shapes(config: StudyConfig) -> ModelShapes:
    return model_shapes(Resolved.of(config), vocabulary_of(Resolved.of(config)))


def plan_of(config: StudyConfig, gpu_gb: float | None, host_gb: float):
    return memory_plan(
        Resolved.of(config), shapes(config), Room.usable(None if gpu_gb is None else gpu_gb * GB, host_gb * GB)
    )


@pytest.mark.parametrize("name", PRESETS)
def test_shapes_are_those_of_the_model_itself_and_nothing_is_allocated(name):
    config = preset(name)
    found = shapes(config)
    count = parameter_count(config.model, vocabulary_of(Resolved.of(config)), config.training.sequence_length)
    assert found.moved == found.parameters
    if config.tuning.lora_rank is not None:
        assert found.frozen == count
        return
    assert found.total == found.whole == count
    held = with_settings(config, {"sweep.moved": "no-norms-embeddings"})
    assert sum(shapes(held).moved) < found.total - found.embedding + 1


def test_shapes_of_a_real_model_and_of_one_on_the_meta_device_agree():
    config = with_settings(preset("tiny"), {"model.family": "qwen2", "model.kv_heads": 2})
    real = build_model(config.model, seed=0, vocab_size=256, sequence_length=64)
    assert shapes_of(real) == model_shapes(Resolved.of(config), 256)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_weights_moments_and_gradients_are_counted_in_their_type(weights):
    config = with_settings(preset("gpt2-124m"), {"training.weights": weights})
    sizes = {part.name: part.nbytes for part in plan_of(config, 80, 200).parts}
    one = shapes(config).total * (4 if weights == "float32" else 2)
    assert (sizes["weights"], sizes["moments"], sizes["gradients"]) == (one, 2 * one, one)
    assert bool(sizes["autocast's copies"]) == (weights == "float32")


@pytest.mark.parametrize("place", ["device", "host"])
def test_the_ring_is_what_a_history_allocates(place):
    config = with_settings(preset("tiny"), {"sweep.ring": place, "cascade.kinds": []})
    plan = plan_of(config, 80, 200)
    like = [torch.empty(size) for size in shapes(config).moved]
    history = History(like, Resolved.of(config).needs.snapshots)
    for step in range(history.length):
        history.push(step + 1, like)
    ring = next(part for part in plan.parts if part.name == f"ring on {place}")
    if place == "device":
        assert ring.nbytes == history.nbytes
    else:  # page-locked memory comes in powers of two
        assert history.nbytes <= ring.nbytes < 2.1 * history.nbytes
    assert set(plan.ring_places) == {place}


@pytest.mark.parametrize("gpu_gb", [62, 66, 80, 100, 141, 300])
def test_an_automatic_ring_fills_the_device_and_no_more(gpu_gb):
    config = preset("qwen2.5-7b")
    plan = plan_of(config, gpu_gb, 1000)
    sizes = shapes(config)
    near = [size for size, place in zip(sizes.moved, plan.ring_places, strict=True) if place == "device"]
    far = [size for size, place in zip(sizes.moved, plan.ring_places, strict=True) if place == "host"]
    assert plan.device_bytes <= plan.room.device_bytes or not near
    if far and near:
        copies = Resolved.of(config).needs.snapshots + branch_snapshots(Resolved.of(config))
        assert plan.device_bytes + copies * 2 * min(far) > 0.94 * plan.room.device_bytes
        assert max(near) >= max(far)
    assert bool(far) == (gpu_gb < 200)


def test_phases_hold_no_more_than_their_own_parts():
    plan = plan_of(preset("gpt2-124m"), 80, 200)
    everything = sum(part.nbytes for part in plan.parts if part.place == "device")
    assert 0 < plan.peak("device", TRAINING) < everything
    # A trained cascade takes the same steps, unwatched.
    watched = next(part.nbytes for part in plan.parts if part.name == "watched values")
    assert plan.peak("device", CASCADE) == plan.peak("device", TRAINING) - watched
    assert plan.device_bytes == max(plan.peak("device", phase) for phase in PHASES)


def test_without_a_gpu_everything_is_host_memory():
    plan = plan_of(preset("gpt2-124m"), None, 24)
    assert plan.device_bytes == 0
    assert set(plan.ring_places) == {"host"}
    assert plan.fits


@pytest.mark.parametrize(
    ("name", "gpu_gb", "host_gb", "settings"),
    [
        ("qwen2.5-7b", 80, 200, {"sweep.ring": "device"}),
        ("qwen2.5-7b", 80, 200, {"training.weights": "float32"}),
        ("qwen2.5-7b", 80, 120, {}),
        ("qwen2.5-7b", 64.5, 130, {"verify.batch_sequences": 128, "verify.budget": 256}),
        ("qwen2.5-1.5b", 40, 100, {"sweep.ring": "device"}),
        ("qwen2.5-1.5b", 24, 100, {}),
        ("gpt2-124m", None, 8, {}),
    ],
)
def test_the_remedies_of_a_plan_that_does_not_fit_make_it_fit(name, gpu_gb, host_gb, settings):
    config = with_settings(preset(name), settings)
    plan = plan_of(config, gpu_gb, host_gb)
    assert not plan.fits
    assert name in plan.problem
    told = plan.problem.split(": set ")[1]
    pairs = dict(pair.split("=") for pair in told.split(", "))
    values = {key: value.strip("[]").split(",") if "[" in value else value for key, value in pairs.items()}
    values = {key: [] if value == [""] else value for key, value in values.items()}
    assert plan_of(with_settings(config, values), gpu_gb, host_gb).fits


def test_what_cannot_be_made_to_fit_is_said_so():
    plan = plan_of(preset("qwen2.5-7b"), 40, 100)
    assert "needs" in plan.problem
    assert "37.8 are to be had" in plan.problem
    assert "no setting makes it fit" in plan.problem
    assert plan.lines()[-1].strip() == plan.problem


def test_the_paper_presets_fit_one_gpu_of_80_gb_in_the_precision_they_ask_for():
    for name in PAPER:
        assert plan_of(preset(name), 80, 200).fits, name
    seven = with_settings(preset("qwen2.5-7b"), {"training.weights": "float32"})
    assert not plan_of(seven, 80, 1000).fits
    assert plan_of(seven, 141, 400).fits


@pytest.mark.parametrize("gpu_gb", [None, 80])
def test_lines_are_aligned_and_name_every_part_and_phase(gpu_gb):
    plan = plan_of(preset("gpt2-124m"), gpu_gb, 200)
    lines = plan.lines()
    for part in plan.parts:
        assert any(line.strip().startswith(part.name) for line in lines) == bool(part.nbytes)
    assert all(len(line) <= 110 for line in lines)
    for phase in PHASES:
        assert any(f"peak, {phase}" in line for line in lines)


def test_options_are_every_precision_with_every_ring_and_one_of_them_is_chosen():
    config = preset("qwen2.5-7b")
    found = options(Resolved.of(config), shapes(config), Room.usable(80 * GB, 200 * GB))
    assert [(option.precision, option.ring) for option in found if option.plan.fits] == [
        ("pure bf16", "split"),
        ("pure bf16", "host"),
    ]
    assert [(option.precision, option.ring) for option in found if option.chosen] == [("pure bf16", "split")]
    assert len(options(Resolved.of(config), shapes(config), Room.usable(None, 200 * GB))) == 2


@pytest.mark.parametrize("every", [None, 1, 5, 10])
def test_disk_holds_what_is_written_at_once(every):
    config = with_settings(preset("gpt2-124m"), {"snapshots.every": every, "seeds": [1]})
    bill = cost(Resolved.of(config), 50257, Room(None, AMPLE))
    weights = 4 * shapes(config).total
    fingerprints = 100 * 768 * 4 * 41
    copies = (bill.disk_bytes - fingerprints) / weights
    if every is None:
        assert copies == 0
    else:
        assert copies == int(copies)
        assert copies >= 4 + 2 * 2


def test_disk_of_a_study_that_keeps_everything():
    config = with_settings(preset("tiny"), {"seeds": [1]})
    checkpoints, weights = 30, 4 * shapes(config).total
    fingerprints = 100 * 64 * 4 * (checkpoints + 1)
    assert cost(Resolved.of(config), 256, Room(None, AMPLE)).disk_bytes == 3 * checkpoints * weights + fingerprints
