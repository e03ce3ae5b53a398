"""Studies that go on from another's weights: all of them, or adapters beside them."""

from __future__ import annotations

import shutil

import pytest
import torch
from _floors import Floors

from leapverify import run_study
from leapverify.capacity.activations import model_shapes, shapes_of
from leapverify.capacity.cost import cost
from leapverify.capacity.memory import Room
from leapverify.config.overrides import with_settings
from leapverify.config.presets import preset
from leapverify.config.resolved import Resolved
from leapverify.core.weights import trainable
from leapverify.errors import ConfigError
from leapverify.runs import Paused
from leapverify.study import record
from leapverify.study.apparatus import build, open_corpus
from leapverify.study.folder import SeedFolder
from leapverify.study.initial_weights import check_start, first_model
from leapverify.study.resweep import sweep_study
from leapverify.train.adapters import adapter_sizes, with_adapters
from leapverify.train.models import build_model
from leapverify.train.state import load_snapshot
from marks import slow
from micro import same_numbers, timeless

RANK = 2
FRESH = {"training__steps": 40, "model__dropout": 0.1, "snapshots__weights": "all", "snapshots__optimizer": "all"}


@pytest.fixture(scope="module")
def start(record_once, micro):
    """A finished study of two seeds to begin from."""
    return record_once("tuning-start", micro(seeds=[42, 43], training__steps=20, sweep__horizons=[5])).path


@pytest.fixture(params=[slow(None), RANK], ids=["whole", "lora"])
def tuned(request, micro, start):
    """A configuration that begins there."""
    if request.param:
        pytest.importorskip("peft")
    return lambda **changes: micro(
        **{"tuning__start": str(start), "tuning__lora_rank": request.param, **FRESH, **changes}
    )


@pytest.fixture
def lora(micro, start):
    pytest.importorskip("peft")
    return lambda **changes: micro(**{"tuning__start": str(start), "tuning__lora_rank": RANK, **FRESH, **changes})


def model_of(config, seed):
    return first_model(Resolved.of(config), seed, vocab_size=256)


def test_a_tuned_run_begins_where_its_start_ended(tuned, start, tmp_path):
    before = record.SeedFolder(start, 42).read_fingerprints()
    study = run_study(tuned(), tmp_path / "run", device="cpu")
    # Adapters begin with a factor that is zero: they add nothing, to the bit.
    assert torch.equal(study.fingerprints(42)[0], before[20])
    assert study.checkpoints[-1].heldout_loss < study.checkpoints[0].heldout_loss
    again = timeless(study.predictions)
    assert {row["status"] for row in again} >= {"ok"}
    assert timeless(sweep_study(study.path, device="cpu").predictions) == again


@pytest.mark.slow
def test_stopped_again_and_again_equals_the_unbroken_run(tuned, tmp_path):
    unbroken = run_study(tuned(), tmp_path / "run", device="cpu")
    real = record.require_time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "require_time", lambda _, seed, step=None: real(0.0 if step else None, seed, step))
        for _ in range(2):
            with pytest.raises(Paused):
                run_study(tuned(), tmp_path / "other", device="cpu", minutes=1)
    same_numbers(run_study(tuned(), tmp_path / "other", device="cpu"), unbroken)


def test_a_lora_run_trains_and_keeps_adapters_alone(lora, tmp_path):
    config = lora(training__steps=10)
    apparatus = build(Resolved.of(config), 42, "cpu", open_corpus(config))
    frozen = {name: each.clone() for name, each in apparatus.model.named_parameters() if not each.requires_grad}
    assert all(".lora_" in name for name in apparatus.parameters)
    assert frozen.keys() | apparatus.parameters.keys() == dict(apparatus.model.named_parameters()).keys()
    apparatus.train(1, 1, 3)
    assert all(torch.equal(each, dict(apparatus.model.named_parameters())[name]) for name, each in frozen.items())
    study = run_study(config, tmp_path / "run", device="cpu")
    assert load_snapshot(study.seed(42).snapshots, 10).keys() == apparatus.parameters.keys()


@pytest.mark.slow
def test_a_perturbed_copy_of_a_lora_run_resumes_too(lora, tmp_path):
    config = lora(observe__lyapunov=True)
    unbroken = run_study(config, tmp_path / "run", device="cpu")
    real = record.require_time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "require_time", lambda _, seed, step=None: real(0.0 if step else None, seed, step))
        with pytest.raises(Paused):
            run_study(config, tmp_path / "other", device="cpu", minutes=1)
    same_numbers(run_study(config, tmp_path / "other", device="cpu"), unbroken)


def test_seeds_begin_from_their_own_number_else_from_their_position(micro, start):
    config = micro(seeds=[7, 43, 8], tuning__start=str(start))
    ends = {seed: load_snapshot(SeedFolder(start, seed).snapshots, 20) for seed in (42, 43)}
    for seed, base in ((7, 42), (43, 43), (8, 42)):
        model = model_of(config, seed)
        assert all(torch.equal(each, ends[base][name]) for name, each in model.named_parameters())
    shared = micro(seeds=[7, 43], tuning__start=str(start), training__init="shared")
    assert torch.equal(model_of(shared, 43).lm_head.weight, model_of(shared, 7).lm_head.weight)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_all_that_is_trained_has_the_type_of_the_weights(lora, weights):
    model = model_of(lora(training__weights=weights), 42)
    assert {each.dtype for each in model.parameters()} == {getattr(torch, weights)}
    assert model.training
    same = model_of(lora(training__weights=weights), 42)
    assert all(map(torch.equal, model.parameters(), same.parameters()))
    other = trainable(model_of(lora(training__weights=weights, seeds=[42, 43]), 43))
    assert not all(torch.equal(each, other[name]) for name, each in trainable(model).items())


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_adapters_are_counted_without_being_made(family):
    pytest.importorskip("peft")
    spec = {"family": family, "layers": 2, "hidden": 32, "heads": 4, "kv_heads": 4 if family == "gpt2" else 2}
    model = build_model(spec, seed=0, vocab_size=64, sequence_length=16)
    count = sum(each.numel() for each in model.parameters())
    sizes = adapter_sizes(model, family, 3)
    with_adapters(model, family, 0, rank=3, alpha=6)
    assert [each.numel() for each in trainable(model).values()] == sizes
    changes = {f"model.{key}": value for key, value in spec.items()}
    config = with_settings(preset("tiny-lora"), {**changes, "tuning.lora_rank": 3, "model.context": 64})
    config = with_settings(config, {"training.sequence_length": 16})
    planned = model_shapes(Resolved.of(config), 64)
    assert (planned.parameters, planned.moved) == (tuple(sizes), tuple(sizes))
    assert Floors(config, [12], vocab_size=64).trained == sum(sizes)
    context = 48 * 32 if family == "gpt2" else 0  # the presets' longer one
    assert planned.frozen == count + context
    assert shapes_of(model).cast == planned.cast


def test_updates_are_scaled_by_alpha_over_rank():
    pytest.importorskip("peft")
    spec = {"layers": 1, "hidden": 16, "heads": 2}
    model = with_adapters(build_model(spec, seed=0, vocab_size=64, sequence_length=8), "gpt2", 0, rank=4, alpha=6)
    matrix = model.transformer.h[0].attn.c_attn
    inputs = torch.randn(3, 16)
    with torch.no_grad():
        matrix.lora_B["default"].weight.normal_()
        update = inputs @ matrix.lora_A["default"].weight.T @ matrix.lora_B["default"].weight.T
        torch.testing.assert_close(matrix(inputs) - matrix.base_layer(inputs), 6 / 4 * update, rtol=1e-4, atol=1e-5)


def test_a_family_without_known_matrices_is_refused():
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match="no adapters are known for a model of family 'mamba': give one of gpt2, qwen"):
        with_adapters(torch.nn.Linear(1, 1), "mamba", 0)


def test_the_bill_of_adapters_counts_what_rests():
    whole, adapters = (
        cost(Resolved.of(preset(name)), 256, Room(None, 10**15)) for name in ("tiny-finetune", "tiny-lora")
    )
    trained = model_shapes(Resolved.of(preset("tiny-lora")), 256).total
    assert adapters.parameters == whole.parameters + trained
    assert adapters.disk_bytes < whole.disk_bytes / 2
    assert 2 / 3 < adapters.train_flops / whole.train_flops < 1
    parts = {part.name: part.nbytes for part in adapters.plan.parts}
    assert parts["weights"] == 4 * adapters.parameters
    assert parts["moments"] == 2 * parts["gradients"] == 8 * trained


@pytest.mark.parametrize("name", ["tiny-finetune", "tiny-lora"])
def test_the_presets_say_how_their_start_is_made(name, monkeypatch, tmp_path):
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    told = r"runs/tiny-code is no run folder of a study: make one \(leapverify study tiny --set data\.source=stdlib-"
    with pytest.raises(ConfigError, match=told + r"code --out runs/tiny-code\), or name another"):
        check_start(Resolved.of(preset(name)))
    assert preset(name).observe.interval_steps == 20


def refused(config, match):
    with pytest.raises(ConfigError, match=match):
        check_start(Resolved.of(config))


def test_starts_that_cannot_be_begun_from_are_refused(micro, start, tmp_path):
    refused(micro(tuning__start=str(start), model__hidden=32), r"another model \(model\.hidden 16 there, 32 here\)")
    refused(micro(tuning__start=str(start), model__heads=4), r"model\.heads 2 there, 4 here")
    refused(micro(tuning__start=str(start), model__context=16), r"model\.context 96 there, 16 here")
    check_start(Resolved.of(micro(tuning__start=str(start), model__dropout=0.2)))
    copy = tmp_path / "copy"
    shutil.copytree(start, copy)
    (copy / "done.json").unlink()
    refused(micro(tuning__start=str(copy)), "has not finished: give its study command again")
    (copy / "done.json").write_text("{}")
    shutil.rmtree(copy / "seed-42" / "snapshots")
    refused(micro(tuning__start=str(copy)), r"kept no weights of seed 42: run it anew with --set snapshots\.")
    refused(micro(tuning__start=str(tmp_path)), "is no run folder of a study")


def test_a_lora_run_is_no_start_and_needs_one(lora, micro, tmp_path):
    study = run_study(lora(training__steps=10), tmp_path / "run", device="cpu")
    refused(micro(tuning__start=str(study.path)), "is a LoRA run, which keeps its adapters only")
    with pytest.raises(ConfigError, match=r"lora_rank is 4, and there are only random weights to adapt: set"):
        micro(tuning__lora_rank=4)
