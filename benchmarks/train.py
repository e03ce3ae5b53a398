"""The training step of a study, eager and compiled, against its floor: the same operations at the rates of this chip.

Floor of a step: 6 operations per token and weight that is multiplied with (the head too, embeddings that are looked up
not), causal attention (6 T d per token and layer), all at the rate of one large matrix product measured in this run;
and, in turn, the bytes that AdamW must move (weights, moments and gradient read, all but the last written) at the rate
of a large copy measured in this run. `matmul share` leaves the bytes out. Rounds of the variants alternate; medians.

    python benchmarks/train.py [--model NAME] [--device cpu|cuda] [--compile off default ...] [--json FILE]

Not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from leapverify.train.batches import Batches, Windows
from leapverify.train.loop import train_step
from leapverify.train.losses_compiled import Losses, causal_attention
from leapverify.train.models import ModelSpec, build_model, gpt2_124m_spec, qwen_1_5b_spec, qwen_7b_spec
from leapverify.train.optimizer import build_optimizer

MODELS: dict[str, tuple[ModelSpec, int]] = {
    "tiny": (ModelSpec(layers=2, hidden=64, heads=4, context=256), 256),
    "wide": (ModelSpec(layers=4, hidden=512, heads=8, context=256), 8192),
    "gpt2-124m": (gpt2_124m_spec(), 50257),
    "qwen2.5-1.5b": (qwen_1_5b_spec(), 151936),
    "qwen2.5-7b": (qwen_7b_spec(), 152064),
}
"""Architecture and vocabulary."""


def multiplied(model: nn.Module) -> int:
    """Weights that every token is multiplied with: all matrices but embeddings, and the head, tied or not."""
    parts: Any = model
    tables = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    matrices = {id(p): p.numel() for p in model.parameters() if p.dim() == 2 and id(p) not in tables}
    head = parts.get_output_embeddings().weight
    return sum({**matrices, id(head): head.numel()}.values())


def step_operations(model: nn.Module, spec: ModelSpec, batch: int, length: int) -> float:
    """Floating-point operations of one forward and backward pass."""
    per_token = 6.0 * multiplied(model) + 6.0 * length * spec.hidden * spec.layers
    return per_token * batch * length


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second of one large product, the best of several."""
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(12))


def copy_rate(device: str) -> float:
    """Bytes read and written per second by one large copy, the best of several."""
    source = torch.ones(1 << (29 if device == "cuda" else 26), device=device)
    target = torch.empty_like(source)
    return 2.0 * source.nbytes / min(seconds(lambda: target.copy_(source), device) for _ in range(8))


def seconds(call: Callable[[], object], device: str) -> float:
    """Seconds of a call, its work on the device included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def random_windows(vocabulary: int, sequences: int, length: int) -> Windows:
    """Sequences of tokens drawn evenly."""
    tokens = np.random.default_rng(0).integers(vocabulary, size=sequences * length)
    starts = np.arange(sequences, dtype=np.int64) * length
    return Windows(tokens, starts, starts + length, length, 0)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one model, as plain data."""
    spec, vocabulary = MODELS[options.model]
    if options.dropout is not None:
        spec = spec.model_copy(update={"dropout": options.dropout})
    model = causal_attention(build_model(spec, seed=0, vocab_size=vocabulary, sequence_length=options.length))
    model = model.to(options.device, getattr(torch, options.weights))
    autocast = torch.bfloat16 if options.precision == "bfloat16" and options.weights == "float32" else None
    optimizer = build_optimizer(model.parameters(), 5e-5, device=options.device)
    batches = Batches(random_windows(vocabulary, 512, options.length), options.batch, 0, options.device)
    variants = {mode: Losses(autocast=autocast, mode=mode) for mode in options.compile}
    done = 0

    def steps(count: int, losses: Losses) -> None:
        nonlocal done
        for _ in range(count):
            done += 1
            train_step(model, optimizer, batches(done), 5e-5, loss=losses.mean)

    first = {mode: seconds(partial(steps, 3, losses), options.device) for mode, losses in variants.items()}
    taken: dict[str, list[float]] = {mode: [] for mode in variants}
    rates: list[tuple[float, float]] = []
    dtype = torch.bfloat16 if autocast or options.weights == "bfloat16" else torch.float32
    for _ in range(options.rounds):
        rates.append((matmul_rate(options.device, dtype), copy_rate(options.device)))
        for mode, losses in variants.items():
            spent = seconds(partial(steps, options.steps, losses), options.device)
            taken[mode].append(spent / options.steps)
    matmul, copied = (max(column) for column in zip(*rates, strict=True))
    count = sum(parameter.numel() for parameter in model.parameters())
    operations = step_operations(model, spec, options.batch, options.length)
    adamw_bytes = 7.0 * sum(parameter.nbytes for parameter in model.parameters())
    floor, bare = operations / matmul + adamw_bytes / copied, operations / matmul
    found = {mode: statistics.median(times) for mode, times in taken.items()}
    return {
        "model": options.model,
        "parameters": count,
        "batch": [options.batch, options.length],
        "compute": str(dtype).removeprefix("torch."),
        "weights": options.weights,
        "hardware": hardware(options.device),
        "torch": torch.__version__,
        "rounds": options.rounds,
        "steps_a_round": options.steps,
        "operations_a_step": operations,
        "matmul_tflops": matmul / 1e12,
        "copy_gb_s": copied / 1e9,
        "floor_ms": 1e3 * floor,
        "matmul_floor_ms": 1e3 * bare,
        "variants": {
            mode: {
                "step_ms": 1e3 * time_s,
                "spread_ms": [1e3 * min(taken[mode]), 1e3 * max(taken[mode])],
                "tokens_per_s": options.batch * options.length / time_s,
                "floor_share": floor / time_s,
                "matmul_share": bare / time_s,
                "first_three_steps_s": first[mode],
            }
            for mode, time_s in found.items()
        },
    }


def hardware(device: str) -> str:
    """What this ran on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def show(found: dict[str, Any]) -> None:
    """Print what was measured."""
    print(f"{found['hardware']}, torch {found['torch']}, median of {found['rounds']} x {found['steps_a_round']} steps")
    print(
        f"{found['model']}, {found['parameters'] / 1e6:.1f} M parameters in {found['weights']}, batch "
        f"{found['batch'][0]} x {found['batch'][1]}, compute {found['compute']}"
    )
    print(
        f"floor {found['floor_ms']:.2f} ms: {found['operations_a_step'] / 1e9:.1f} G operations at "
        f"{found['matmul_tflops']:.3f} T/s = {found['matmul_floor_ms']:.2f} ms, and AdamW's bytes at "
        f"{found['copy_gb_s']:.1f} GB/s"
    )
    for mode, row in found["variants"].items():
        low, high = row["spread_ms"]
        print(
            f"{mode:16s} {row['step_ms']:9.2f} ms a step ({low:.2f}-{high:.2f})  {row['tokens_per_s']:10.0f} tokens/s  "
            f"{row['floor_share']:6.1%} of the floor's speed, {row['matmul_share']:6.1%} by products alone; "
            f"first three steps {row['first_three_steps_s']:.1f} s"
        )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", choices=MODELS, default="wide")
    parser.add_argument("--compile", nargs="+", choices=["off", "default", "reduce-overhead"], default=None)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default=None)
    parser.add_argument("--weights", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--dropout", type=float, default=None)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    cuda = options.device == "cuda"
    options.steps = options.steps or (30 if cuda else 3)
    options.compile = options.compile or ["off", "default", *(["reduce-overhead"] if cuda else [])]
    options.precision = options.precision or ("bfloat16" if cuda else "float32")
    return options


if __name__ == "__main__":
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    result = measure(arguments)
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
