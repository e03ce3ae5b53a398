"""The floor: operations against torch's own counter, bytes against what really has to move."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from _floors import Floors, seconds, total
from _operations import Architecture, Tokens, Work, architecture, backward, forward, probes, rows
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from leapverify.capacity.machine import ACCELERATORS, Accelerator
from leapverify.config.overrides import with_settings
from leapverify.config.presets import preset
from leapverify.config.study import StudyConfig
from leapverify.core.weights import trainable
from leapverify.predict import CATALOGUE, predictor
from leapverify.train.batches import make_batch
from leapverify.train.losses import mean_loss
from leapverify.train.models import ModelSpec, build_model
from leapverify.trajectory.history import History

BESIDE = ("averages", "milestones", "selection", "gradients")
ROOT = Path(__file__).resolve().parents[2]
SWEPT = [name for name in CATALOGUE if name not in ("nino", "nino-mlp") and not predictor(name).needs.recent]
SWEPT = [name for name in SWEPT if not any(getattr(predictor(name).needs, need) for need in BESIDE)]
"""Those that read snapshots and moments alone."""
SPECS = {
    "gpt2": ModelSpec(layers=2, hidden=64, heads=4, context=32),
    "gpt2, narrow inside": ModelSpec(layers=1, hidden=32, heads=2, intermediate=48, context=32),
    "qwen2": ModelSpec(family="qwen2", layers=2, hidden=64, heads=4, kv_heads=2, intermediate=160, context=32),
    "qwen2, untied": ModelSpec(family="qwen2", layers=3, hidden=48, heads=6, kv_heads=1, tie_embeddings=False),
}
ROWS, LENGTH, VOCABULARY = 3, 32, 256
SLOW = Accelerator("a unit", 1, 1.0, 1.0, 1.0, "")

aten = torch.ops.aten
# torch counts the attention of GPUs alone; on a CPU the same products run under other names.
ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(
        g, q, k, v
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_operations_are_those_that_torch_counts(name: str) -> None:
    model = build_model(SPECS[name], seed=0, vocab_size=VOCABULARY, sequence_length=LENGTH)
    batch = make_batch(torch.randint(VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0)))
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as ahead:
        loss = mean_loss(model, batch)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as back:
        loss.backward()  # type: ignore[no-untyped-call]
    assert any("attention" in str(operation) for operation in ahead.get_flop_counts()["Global"])
    model_of, tokens = architecture(SPECS[name], VOCABULARY, LENGTH), rows(ROWS, LENGTH, causal=False)
    assert forward(model_of, tokens).flops == ahead.get_total_flops()
    assert backward(model_of, tokens).flops == back.get_total_flops()


@pytest.mark.parametrize("name", SPECS)
def test_products_hold_every_matrix_of_the_model(name: str) -> None:
    model = build_model(SPECS[name], seed=0, vocab_size=VOCABULARY, sequence_length=LENGTH)
    head = model.get_output_embeddings()  # type: ignore[operator]
    linear = {id(m): m for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D")}
    found = architecture(SPECS[name], VOCABULARY, LENGTH)
    assert found.matrices == sum(m.weight.numel() for m in linear.values())
    assert found.body_matrices == found.matrices - head.weight.numel()
    assert found.parameters == sum(each.numel() for each in model.parameters())


def test_causal_attention_is_half_of_the_square_and_its_diagonal() -> None:
    assert rows(2, 4).pairs == 2 * (1 + 2 + 3 + 4)
    assert probes([4, 4]) == Tokens(8, 0, rows(2, 4).pairs)
    found = architecture(SPECS["gpt2"], VOCABULARY, LENGTH)
    full, half = (forward(found, rows(1, LENGTH, causal=causal)).flops for causal in (False, True))
    assert full - half == 2 * 2 * found.layers * found.query_width * (LENGTH * (LENGTH - 1) / 2)


def test_a_pass_reads_each_matrix_once_and_little_else_for_one_token() -> None:
    found = Architecture(parameters=10, layers=1, block=((100, 200),), head=(100, 300), query_width=0, key_width=0)
    matrices = 100 * 200 + 100 * 300
    assert forward(found, Tokens(1, 1, 0)).bytes == 2 * (matrices + 100 + 200 + 100 + 300)
    assert backward(found, Tokens(1, 1, 0)).bytes == 2 * (2 * matrices + 2 * (200 + 300) + 2 * (100 + 100))
    assert forward(found, Tokens(1, 0, 0)).flops == 2 * 100 * 200


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_the_step_moves_what_adamw_reads_and_writes(weights: str) -> None:
    config = with_settings(preset("gpt2-124m"), {"training.weights": weights})
    passes, norm, step = Floors(config, [12]).training_step()
    model = build_model(SPECS["gpt2"], seed=0, vocab_size=VOCABULARY, sequence_length=LENGTH)
    model.to(getattr(torch, weights))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    mean_loss(model, make_batch(torch.zeros(1, 8, dtype=torch.int64))).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    written = [*model.parameters(), *states]
    moved = sum(each.nbytes for each in written) * 2 + sum(each.nbytes for each in model.parameters())
    count = sum(each.numel() for each in model.parameters())
    assert step.bytes / Floors(config, [12]).model.parameters == moved / count
    assert norm.bytes == step.bytes / 7
    assert passes.flops > 6 * 124e6 * 1024 * 0.9


def _moved(config: StudyConfig, name: str, *, host: bool) -> Work:
    return total(Floors(config, [12], vocab_size=VOCABULARY, host_ring=host).prediction(name))


@pytest.mark.parametrize("name", SWEPT)
@pytest.mark.parametrize("history", ["float32", "bfloat16"])
def test_predictions_move_what_the_predictor_declares(name: str, history: str) -> None:
    settings = {"sweep.history": history, "model.layers": 1, "training.sequence_length": 32}
    config = with_settings(preset("tiny", 100), settings)
    model = build_model(config.model, seed=0, vocab_size=VOCABULARY, sequence_length=32)
    parameters = list(trainable(model).values())
    needs = predictor(name).needs
    ring = History(parameters, needs.reach, dtype=getattr(torch, history))
    for step in range(needs.reach):
        ring.push(step, parameters)
    moments = 2 * needs.optimizer_state * sum(each.nbytes for each in parameters)
    weights = sum(each.nbytes for each in parameters)
    assert _moved(config, name, host=False) == Work(bytes=ring.nbytes + moments + weights)
    assert _moved(config, name, host=True) == Work(bytes=moments + weights, link=ring.nbytes)


def test_a_phase_lasts_as_long_as_its_slowest_part_and_phases_follow_one_another() -> None:
    assert seconds((Work(3, 2, 1), Work(1, 2, 5), Work(0, 4, 0)), SLOW) == 3 + 5 + 4


def test_a_sweep_is_its_predictions_its_verifications_and_one_snapshot() -> None:
    config = preset("gpt2-124m")
    floors = Floors(config, [12] * 100)
    assert len(floors.candidates()) == len(config.sweep.predictors) * len(config.sweep.horizons)
    parts = floors.push() + floors.restore() + floors.sweep_forwards()
    parts += tuple(work for name in floors.candidates() for work in floors.prediction(name))
    assert total(floors.sweep()).bytes == pytest.approx(total(parts).bytes)
    assert total(floors.sweep(config.verify.budget)).flops == pytest.approx(2 * total(floors.sweep()).flops, rel=1e-3)
    scaled = with_settings(config, {"sweep.momentum_scales": [0.8, 1.0, 1.2]})
    assert len(Floors(scaled, [12]).candidates()) == len(floors.candidates()) + 2 * len(config.sweep.horizons)


def test_a_trained_cascade_holds_its_real_steps() -> None:
    config = with_settings(preset("gpt2-124m"), {"cascade.kinds": ["trained"], "cascade.shapes": [[4, 25]]})
    floors = Floors(config, [12])
    real = 4 * 25 * len(config.cascade.trained_predictors)
    passes = 2 * 4 * len(config.cascade.trained_predictors)
    expected = real * total(floors.training_step()).flops + passes * total(floors.evaluation(64)).flops
    assert total(floors.cascade()).flops == pytest.approx(expected)


@pytest.mark.parametrize("name", ["gpt2-124m", "qwen2.5-1.5b", "qwen2.5-7b"])
@pytest.mark.parametrize("device", ACCELERATORS, ids=lambda device: device.name)
def test_more_of_anything_never_takes_less(name: str, device: Accelerator) -> None:
    floors = Floors(preset(name), [12] * 100)
    longer = Floors(with_settings(preset(name), {"training.batch_size": 8}), [13] * 100)
    assert seconds(longer.training_step(), device) > seconds(floors.training_step(), device)
    assert seconds(longer.fingerprint(), device) >= seconds(floors.fingerprint(), device)
    assert floors.study(device, starts=1) > floors.study(device)
    assert seconds(floors.sweep(), device) >= seconds(floors.sweep_forwards(), device)


@pytest.mark.slow
def test_the_page_holds_what_the_script_prints() -> None:
    command: list[Any] = [sys.executable, ROOT / "benchmarks" / "roofline.py", "--markdown"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "benchmarks" / "roofline.md").read_text()
    blocks = printed.strip().split("\n\n")
    assert len(blocks) == 16
    for title, table in zip(blocks[::2], blocks[1::2], strict=True):
        # What an eager step launches follows the versions of torch and transformers.
        assert title in page
        assert table in page or "launches" in title
