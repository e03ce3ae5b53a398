"""What observing costs: one fingerprint and its similarity, against a forward pass over the same number of real tokens.

The reference runs dense rows without padding and without mask (each as long as the mean probe, a shape that costs
attention little), in batches of the same size, through the same layers: the base model, no head. Goal: at most 1.2.

Then the share of training time: one fingerprint against the steps between two checkpoints. Its floor comes first, by
operations alone: real tokens of the probes, forward through the body, against tokens of the steps, forward and back
through body and head. Goal: at most 0.5 % at Delta = 50 and batches of 4 x 256. Then it is measured, on a width at
which matrix products dominate, steps and fingerprints in turn.

    python benchmarks/observe.py [--device cpu|cuda] [--repeats 20] [--threads 1] [--model NAME|none]
                                 [--tokenizer bytes|FOLDER] [--interval 50] [--compile off|default|reduce-overhead]

Not run on a GPU yet.
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
from leapverify.train.batches import make_batch
from leapverify.train.loop import train_step
from leapverify.train.losses_compiled import Losses, causal_attention
from leapverify.train.models import ModelSpec, build_model, gpt2_124m_spec, qwen_1_5b_spec, qwen_7b_spec
from leapverify.train.optimizer import build_optimizer
from leapverify.train.tokenizers import Tokenizer, load_tokenizer

MODELS = {"tiny": (2, 64, 4), "small": (4, 256, 4), "wide": (6, 512, 8)}
"""Layers, hidden size, heads."""
_EOS = {"bos_token_id": 0, "eos_token_id": 0}
ROWS, LENGTH = 4, 256
"""Of a training batch."""
WIDE = ModelSpec(layers=4, hidden=512, heads=8, context=LENGTH)
PAPER = {"gpt2-124m": gpt2_124m_spec(), "qwen2.5-1.5b": qwen_1_5b_spec(), "qwen2.5-7b": qwen_7b_spec()}


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


def forward_operations(spec: ModelSpec, vocabulary: int, length: float, *, head: bool) -> float:
    """Operations per token of a forward pass: two for each weight that is multiplied with, and causal attention."""
    with torch.device("meta"):
        model = build_model(spec, seed=0, vocab_size=vocabulary, sequence_length=LENGTH)
    tables = {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)}
    tables.add(id(model.get_output_embeddings().weight))  # type: ignore[operator]
    body = sum(p.numel() for p in model.parameters() if p.dim() == 2 and id(p) not in tables)
    weights = body + (spec.hidden * (spec.vocab_size or vocabulary) if head else 0)
    return 2.0 * weights + 2.0 * length * spec.hidden * spec.layers


def floor_share(spec: ModelSpec, tokenizer: Tokenizer, interval: int) -> float:
    """Operations of one fingerprint as a share of those of the steps between two."""
    lengths = [len(tokenizer.encode(text)) for text in paper_probes().texts]
    size, mean = tokenizer.vocab_size, sum(lengths) / len(lengths)
    steps = interval * ROWS * LENGTH * 3 * forward_operations(spec, size, LENGTH, head=True)
    return sum(lengths) * forward_operations(spec, size, mean, head=False) / steps


def floors(tokenizer: Tokenizer, interval: int) -> None:
    """Print what the goal allows, by operations alone."""
    real = sum(len(tokenizer.encode(text)) for text in paper_probes().texts)
    print(f"probes: {real} real tokens; {interval} steps: {interval * ROWS * LENGTH} tokens, three passes each")
    specs = {"wide": WIDE} | ({} if tokenizer.vocab_size < 50257 else PAPER)
    for name, spec in specs.items():
        share = floor_share(spec, tokenizer, interval)
        print(
            f"{name:14s} floor {share:6.2%} of the steps' operations; 0.5 % from Delta = {share * interval / 0.005:.0f}"
        )


def measured_share(tokenizer: Tokenizer, arguments: argparse.Namespace) -> None:
    """Print seconds of a fingerprint and of the steps between two."""
    device, autocast = arguments.device, torch.bfloat16 if arguments.device == "cuda" else None
    model = build_model(WIDE, seed=0, vocab_size=tokenizer.vocab_size, sequence_length=LENGTH).to(device)
    optimizer = build_optimizer(causal_attention(model).parameters(), 5e-5, device=device)
    losses = Losses(autocast=autocast, mode=arguments.compile)
    batch = make_batch(torch.randint(tokenizer.vocab_size, (ROWS, LENGTH), device=device))
    fingerprint = Fingerprinter(model, paper_probes(), tokenizer=tokenizer, autocast=autocast)
    before = fingerprint()
    observe_s, step_s = seconds(
        [
            lambda: similarity(before, fingerprint()),
            lambda: train_step(model, optimizer, batch, 5e-5, loss=losses.mean),
        ],
        max(3, arguments.repeats // 4),
        device,
    )
    share = observe_s / (arguments.interval * step_s)
    print(
        f"wide, measured  {observe_s * 1e3:.1f} ms a fingerprint ({fingerprint.positions} positions computed), "
        f"{step_s * 1e3:.1f} ms a step (compile {arguments.compile}): {share:.2%} of {arguments.interval} steps, "
        f"{share / floor_share(WIDE, tokenizer, arguments.interval):.2f} times its floor"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", choices=[*MODELS, "all", "none"], default="all")
    parser.add_argument("--tokenizer", default="bytes", help="bytes, or a folder with tokenizer.json")
    parser.add_argument("--interval", type=int, default=50, help="Delta, steps")
    parser.add_argument("--compile", choices=["off", "default", "reduce-overhead"], default="off")
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
    tokenizer = load_tokenizer(arguments.tokenizer)
    floors(tokenizer, arguments.interval)
    measured_share(tokenizer, arguments)


if __name__ == "__main__":
    main()
