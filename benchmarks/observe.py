"""What observing costs: one fingerprint and its similarity, against a forward pass over the same number of real tokens.

The reference runs dense rows without padding and without mask (each as long as the mean probe, a shape that costs
attention little), in batches of the same size, through the same layers: the base model, no head. Goal: at most 1.2.

    python benchmarks/observe.py [--device cpu|cuda] [--repeats 20] [--threads 1] [--model NAME]
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from leapverify.observe.fingerprint import Fingerprinter
from leapverify.observe.probes import paper_probes
from leapverify.observe.similarity import similarity

MODELS = {"tiny": (2, 64, 4), "small": (4, 256, 4), "wide": (6, 512, 8)}
"""Layers, hidden size, heads."""
_EOS = {"bos_token_id": 0, "eos_token_id": 0}


class Bytes:
    """Bytes as tokens."""

    def encode(self, text: str) -> list[int]:
        """UTF-8 bytes of a text."""
        return list(text.encode())


def seconds(functions: list[Callable[[], object]], repeats: int, device: str) -> list[float]:
    """Least seconds of each function: what else runs only adds; calls are interleaved to meet the same machine."""
    taken: list[list[float]] = [[] for _ in functions]
    for round_ in range(repeats + 2):
        for function, times in zip(functions, taken, strict=True):
            start = time.perf_counter()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            if round_ >= 2:
                times.append(time.perf_counter() - start)
    return [min(times) for times in taken]


def measure(name: str, layers: int, width: int, heads: int, repeats: int, device: str) -> None:
    """Print both times and their ratio for one model."""
    config = GPT2Config(vocab_size=256, n_positions=128, n_embd=width, n_layer=layers, n_head=heads, **_EOS)
    model = GPT2LMHeadModel(config).to(device).eval()
    probes = paper_probes()
    fingerprint = Fingerprinter(model, probes, tokenizer=Bytes())
    tokens = sum(len(text.encode()) for text in probes.texts)
    row = round(tokens / len(probes))
    per_batch = (2048 if device == "cpu" else 16384) // row
    dense = torch.randint(256, (round(tokens / row), row), device=device)
    before = fingerprint()

    def observe() -> None:
        similarity(before, fingerprint())

    @torch.no_grad()
    def forward() -> None:
        for start in range(0, len(dense), per_batch):
            model.base_model(dense[start : start + per_batch], use_cache=False)

    observe_s, forward_s = seconds([observe, forward], repeats, device)
    positions = f"real tokens {tokens}, computed {fingerprint.positions}, dense {dense.numel()}"
    times = f"observing {observe_s * 1e3:8.2f} ms   forward {forward_s * 1e3:8.2f} ms"
    print(f"{name:6s} {times}   ratio {observe_s / forward_s:5.2f}   {positions}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", choices=[*MODELS, "all"], default="all")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    where = (
        torch.cuda.get_device_name()
        if arguments.device == "cuda"
        else f"{platform.machine()}, threads {arguments.threads}"
    )
    print(f"{where}, torch {torch.__version__}, {arguments.repeats} repeats, least")
    for name, (layers, width, heads) in MODELS.items():
        if arguments.model not in (name, "all"):
            continue
        measure(name, layers, width, heads, arguments.repeats, arguments.device)


if __name__ == "__main__":
    main()
