"""How much of AdamW's updates survives in bfloat16 weights, phase by phase, and what the loss makes of it.

A GPT-2 of about 1 M parameters on the bytes of the standard library, by the paper's schedule in small: one-tenth
warm-up, cosine to 0. Three kinds of weights (float32; bfloat16 rounded to nearest; bfloat16 rounded stochastically),
the same seeds, batches and rates for each. Printed per phase: the share of the weights meant to move that changed when
stored, and the movement along the intended update (1: as meant), means over the sampled steps and the seeds; at the
end the held-out loss, computed in float32 from the weights as they are stored.

    python benchmarks/survival.py [--steps 200] [--seeds 2] [--rates 5e-5 5e-4]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from leapverify.train.batches import batch_indices
from leapverify.train.corpus import Corpus, prepare
from leapverify.train.loop import train_step
from leapverify.train.losses import mean_loss
from leapverify.train.models import ModelSpec, build_model
from leapverify.train.optimizer import build_optimizer
from leapverify.train.schedule import Schedule
from leapverify.train.tokenizers import load_tokenizer
from leapverify.train.update_survival import Survival, UpdateSample

SPEC = ModelSpec(layers=4, hidden=144, heads=4)
LENGTH, ROWS, HELD_OUT, EVERY = 64, 8, 128, 5
KINDS = {
    "float32": (torch.float32, "nearest"),
    "bfloat16, nearest": (torch.bfloat16, "nearest"),
    "bfloat16, stochastic": (torch.bfloat16, "stochastic"),
}
PHASES = {"warm-up": (0.0, 0.1), "first third": (0.1, 0.4), "second third": (0.4, 0.7), "last third": (0.7, 1.0)}


def run(kind: str, rate: float, seed: int, steps: int, corpus: Corpus) -> tuple[dict[int, Survival], float]:
    """Samples by step, and the held-out loss at the end."""
    dtype, rounding = KINDS[kind]
    model = build_model(SPEC, seed=seed, vocab_size=256, sequence_length=LENGTH, dtype=dtype)
    torch.manual_seed(seed)
    optimizer = build_optimizer(model.parameters(), rate, rounding=rounding, seed=seed)  # type: ignore[arg-type]
    schedule = Schedule("cosine", rate, steps // 10, steps)
    windows = corpus.train.windows(LENGTH, "packed", at_least=ROWS)
    sample, found = UpdateSample(optimizer, model.parameters()), {}
    for step in range(1, steps + 1):
        batch = windows.batch(batch_indices(len(windows), ROWS, step, seed))
        if step % EVERY and step != 1:
            train_step(model, optimizer, batch, schedule(step))
            continue
        with sample:
            train_step(model, optimizer, batch, schedule(step))
        found[step] = sample.read()
    held = corpus.heldout.windows(LENGTH, "packed", at_least=HELD_OUT)
    with torch.no_grad():
        loss = mean_loss(model.float().eval(), held.batch(held.spread(HELD_OUT)))
    return found, float(loss)


def phase_means(samples: list[dict[int, Survival]], steps: int, low: float, high: float) -> tuple[float, float, int]:
    """Mean share, mean projection and how many samples they are of."""
    inside = [
        each
        for found in samples
        for step, each in found.items()
        if low * steps < step <= high * steps and each.elements
    ]
    shares = [each.share for each in inside if each.share is not None]
    along = [each.projection for each in inside if each.projection is not None]
    return statistics.fmean(shares), statistics.fmean(along), len(inside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-5, 5e-4])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        corpus = prepare("stdlib", load_tokenizer("bytes"), Path(folder))
        print(
            f"torch {torch.__version__}, CPU, {asked.steps} steps of {ROWS} x {LENGTH} bytes, n = {asked.seeds} seeds"
        )
        for rate in asked.rates:
            for kind in KINDS:
                began = time.perf_counter()
                runs = [run(kind, rate, seed, asked.steps, corpus) for seed in range(1, asked.seeds + 1)]
                losses = " ".join(f"{loss:.4f}" for _, loss in runs)
                took = time.perf_counter() - began
                print(f"\neta = {rate:g}, {kind}: held-out loss at the end {losses} ({took:.0f} s)")
                for name, (low, high) in PHASES.items():
                    share, along, count = phase_means([found for found, _ in runs], asked.steps, low, high)
                    print(f"  {name:13} changed {100 * share:5.1f} %   movement {along:6.3f}   n = {count} steps")


if __name__ == "__main__":
    main()
