"""What a whole sweep of one checkpoint costs, in time and in copies of the weights.

Time: the sweep against the forward passes that it needs, the same batches run bare, both in this process; goal 1.15.
Memory: peak of the resident set during the sweep above what stood before, in copies of the weights; the sweep may hold
one backup beside the history, its candidate being the model itself; goal: at most 2 copies beyond the history.

    python benchmarks/sweep.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from leapverify.history import History, OptimizerState
from leapverify.study.config import SweepConfig
from leapverify.study.sweep import Sweeper, SweepPoint
from leapverify.train.losses import mean_loss, sequence_losses
from leapverify.train.models import ModelSpec, build_model
from leapverify.train.optim import build_optimizer
from leapverify.train.windows import Batch, make_batch
from leapverify.verify import Verifier
from leapverify.weights import trainable

MODELS = {
    "tiny (2 x 64)": (ModelSpec(layers=2, hidden=64, heads=4, context=128), 64, 64, 256),
    "wide (6 x 512)": (ModelSpec(layers=6, hidden=512, heads=8, context=128), 16, 64, 8192),
}
SETTINGS = SweepConfig()


class Apparatus:
    """A model with a history, ready to be swept; its loss function counts the passes."""

    def __init__(self, spec: ModelSpec, rows: int, length: int, vocabulary: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model = build_model(spec, seed=0, vocab_size=vocabulary, sequence_length=length)
        self.parameters = list(trainable(self.model).values())
        optimizer = build_optimizer(self.parameters, 1e-4)
        self.history = History(self.parameters, 4)
        self.batches = [make_batch(torch.randint(vocabulary, (rows, length), generator=generator)) for _ in range(2)]
        for step in range(1, 5):
            mean_loss(self.model, self.batches[0]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self.history.push(50 * step, self.parameters)
        self.history.optimizer = OptimizerState.from_optimizer(optimizer, self.parameters, step=200)
        self.passes: list[Batch] = []
        self.verifier = Verifier(self.model, self.batches, self.loss, sequences=rows, budget=2 * rows)

    def loss(self, model: torch.nn.Module, batch: Batch) -> Any:
        """Per-sequence losses, noted."""
        self.passes.append(batch)
        return sequence_losses(model, batch)


def measure(name: str, repeats: int) -> None:
    """Print time and memory of one model's sweep."""
    apparatus = Apparatus(*MODELS[name])
    weights = sum(tensor.nbytes for tensor in apparatus.parameters)
    point = SweepPoint(0, 200, "stable", apparatus.verifier.measure(), 0.01)
    before = resident_bytes(reset=True)
    sweeper = Sweeper(apparatus.parameters, apparatus.history, apparatus.verifier, SETTINGS)
    sweeper.sweep(point)
    copies = (resident_bytes(peak=True) - before) / weights
    swept, bare = [], []
    for _ in range(repeats):
        apparatus.passes.clear()
        swept.append(timed(lambda: sweeper.sweep(point)))
        batches = list(apparatus.passes)
        bare.append(timed(lambda batches=batches: forward(apparatus, batches)))
    one, two = statistics.median(swept), statistics.median(bare)
    print(
        f"{name}: sweep of {len(SETTINGS.predictors)} x {len(SETTINGS.horizons)} {one:.3f} s, its {len(batches)} "
        f"forward passes {two:.3f} s, ratio {one / two:.3f}; beyond the history {copies:.2f} copies of the weights "
        f"({weights / 1e6:.1f} MB, activations included)"
    )


@torch.no_grad()
def forward(apparatus: Apparatus, batches: list[Batch]) -> None:
    """The passes by themselves."""
    apparatus.model.eval()
    for batch in batches:
        sequence_losses(apparatus.model, batch)[0].tolist()
    apparatus.model.train()


def timed(call: Any) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def resident_bytes(*, reset: bool = False, peak: bool = False) -> int:
    """The resident set, or its peak since the last reset (Linux)."""
    gc.collect()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    key = "VmHWM:" if peak else "VmRSS:"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for model in MODELS:
        measure(model, arguments.repeats)
