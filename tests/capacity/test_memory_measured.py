"""The memory plan against what whole small seeds of the paper's shapes really allocate, phase by phase."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from all_needs import AllNeeds
from leapverify import run_study
from leapverify.capacity.memory import CASCADE, CHECKPOINT, TRAINING
from leapverify.predict import CATALOGUE
from leapverify.predict.catalogue import Entry
from marks import slow

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory.py"
TOLERANCE = 0.05
PHASES = (TRAINING, CHECKPOINT, CASCADE)

# Every preset, precision and size with every other once.
CASES = [
    ("gpt2-124m", "float32", "weights"),
    ("gpt2-124m", "autocast", "activations"),
    ("gpt2-124m", "bfloat16", "logits"),
    ("qwen2.5-1.5b", "float32", "logits"),
    ("qwen2.5-1.5b", "autocast", "weights"),
    ("qwen2.5-1.5b", "bfloat16", "activations"),
    ("qwen2.5-7b", "float32", "activations"),
    ("qwen2.5-7b", "autocast", "logits"),
    ("qwen2.5-7b", "bfloat16", "weights"),
]


@pytest.fixture(scope="module")
def benchmark() -> Any:
    if not BENCHMARK.is_file():
        pytest.skip("the benchmarks are not part of this distribution")
    spec = importlib.util.spec_from_file_location("memory_benchmark", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(benchmark: Any, config: Any, folder: Path, device: str) -> None:
    (folder / "text").mkdir()
    text = benchmark.text_folder(folder / "text")
    peaks = benchmark.measured(config, text, folder / "run", device)
    plan = benchmark.planned(config, device)
    place = "device" if device == "cuda" else "host"
    for phase in PHASES:
        planned = plan.peak(place, phase)
        assert abs(planned / peaks[phase] - 1) < TOLERANCE, (phase, planned, peaks[phase])


@pytest.mark.parametrize(("name", "precision", "size"), [slow(*case) for case in CASES])
def test_the_plan_is_what_is_allocated_on_a_cpu(benchmark, tmp_path, name, precision, size):
    compare(benchmark, benchmark.case(name, precision, size), tmp_path, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"sweep.history": "bfloat16"},
        {"sweep.moments": "float16"},
        {"observe.lyapunov": True},
        {"sweep.moved": "no-norms-embeddings"},
        {"cascade.kinds": []},
        {"training.weights": "bfloat16", "training.rounding": "stochastic"},
    ],
    ids="-".join,
)
def test_what_settings_add_or_save_is_in_the_plan(benchmark, tmp_path, settings):
    config = benchmark.with_settings(benchmark.case("qwen2.5-1.5b", "float32", "weights"), settings)
    (tmp_path / "text").mkdir()
    peaks = benchmark.measured(config, benchmark.text_folder(tmp_path / "text"), tmp_path / "run")
    plan = benchmark.planned(config)
    for phase in (TRAINING, CHECKPOINT):
        assert abs(plan.peak("host", phase) / peaks[phase] - 1) < TOLERANCE, (phase, plan.peak("host", phase), peaks)


@pytest.mark.slow
def test_what_predictors_ask_for_and_what_adapters_save_is_in_the_plan(benchmark, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.setitem(CATALOGUE, "all-needs", Entry(AllNeeds, "", ""))
    (tmp_path / "text").mkdir()
    text = benchmark.text_folder(tmp_path / "text")
    base = benchmark.with_settings(benchmark.case("gpt2-124m", "float32", "weights"), {"data.source": f"text:{text}"})
    kept = {"training.steps": 5, "snapshots.every": 1}
    start = run_study(benchmark.with_settings(base, kept), tmp_path / "start", device="cpu").path
    asking = {"sweep.predictors": ["linear", "all-needs"], "verify.selection_sequences": 4}
    adapters = {"tuning.start": str(start), "tuning.lora_rank": 4}
    for name, settings in (("asking", asking), ("adapters", adapters)):
        config = benchmark.with_settings(base, settings)
        peaks, plan = benchmark.measured(config, text, tmp_path / name), benchmark.planned(config)
        found = plan.peak("host", CHECKPOINT)
        assert abs(found / peaks[CHECKPOINT] - 1) < TOLERANCE, (name, found, peaks)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="measures a GPU's allocator, and there is no GPU here")
@pytest.mark.parametrize(("name", "precision", "size"), CASES)
def test_the_plan_is_what_is_allocated_on_a_gpu(benchmark, tmp_path, name, precision, size):
    compare(benchmark, benchmark.case(name, precision, size), tmp_path, "cuda")


def test_the_meter_counts_what_lives_at_once_and_outermost_phases_only(benchmark):
    megabyte = 250_000
    with benchmark.Meter("cpu") as meter:
        kept = torch.empty(megabyte)
        with meter.phase("one"):
            first = torch.empty(2 * megabyte)
            del first
            second = torch.empty(3 * megabyte)
            del second
        with meter.phase("two"):
            value = torch.empty(megabyte, requires_grad=True)
            with meter.phase("inner"):
                saved = (value * value).sum()
            del saved
        between = torch.empty(9 * megabyte)
        del between
    assert kept.numel() == megabyte
    assert meter.peaks["one"] == pytest.approx(4e6, rel=1e-3)
    assert meter.peaks["two"] == pytest.approx(3e6, rel=1e-3)
    assert set(meter.peaks) == {"one", "two"}
