"""Several seeds of a small model: one after another, stacked into one model, and side by side.

Every seed has its own initialisation and its own batches. `after another` is the training step of a study, one seed at
a time; `stacked` is all seeds as one model through torch.func; `processes` runs as many processes as there are cores
(or seeds), as a study does, its start not counted; `streams`, on a GPU, one thread and stream per seed in one process.
First it is made sure that stacked losses are those of separate seeds. Rounds alternate; medians.

    python benchmarks/seeds.py [--seeds 4] [--model NAME] [--device cpu|cuda] [--json FILE]

Not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _stacked import Stacked
from torch import Tensor, nn

from leapverify.train.batches import make_batch
from leapverify.train.loop import train_step
from leapverify.train.losses import mean_loss
from leapverify.train.losses_compiled import causal_attention
from leapverify.train.models import ModelSpec, build_model, gpt2_124m_spec
from leapverify.train.optimizer import build_optimizer

MODELS = {
    "tiny": (ModelSpec(layers=2, hidden=64, heads=4, context=128, vocab_size=256), 8, 64),
    "small": (ModelSpec(layers=4, hidden=256, heads=4, context=256, vocab_size=256), 4, 256),
    "gpt2-124m": (gpt2_124m_spec().model_copy(update={"dropout": 0.0}), 4, 256),
}
"""Architecture (without dropout, which cannot be stacked), sequences a step and tokens a sequence."""
RATE, DRAWN = 1.5e-4, 32
"""eta, and how many different batches a seed has: they lie ready on the device."""


class Seed:
    """One seed by itself."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        spec, rows, length = MODELS[options.model]
        vocabulary = spec.vocab_size or 256
        model = build_model(spec, seed=seed, vocab_size=vocabulary, sequence_length=length)
        self.model = causal_attention(model).to(options.device)
        self._optimizer = build_optimizer(self.model.parameters(), RATE, device=options.device)
        generator = torch.Generator().manual_seed(seed)
        self._drawn = torch.randint(vocabulary, (DRAWN, rows, length), generator=generator).to(options.device)
        self._done = 0
        autocast = torch.bfloat16 if options.precision == "bfloat16" else None
        self._loss = partial(mean_loss, autocast=autocast)

    def tokens(self, step: int) -> Tensor:
        """What the seed trains on at a step."""
        return self._drawn[step % DRAWN]

    def steps(self, count: int) -> Tensor:
        """Train; the last loss."""
        loss = torch.zeros(())
        for _ in range(count):
            self._done += 1
            batch = make_batch(self.tokens(self._done))
            loss = train_step(self.model, self._optimizer, batch, RATE, loss=self._loss)
        return loss


class Stack:
    """All seeds as one."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._seeds, self._done = [Seed(options, seed) for seed in range(options.seeds)], 0
        models: list[nn.Module] = [seed.model for seed in self._seeds]
        autocast = torch.bfloat16 if options.precision == "bfloat16" else None
        self._stacked = Stacked(
            models, lambda parameters: build_optimizer(parameters, RATE, device=options.device), autocast=autocast
        )

    def steps(self, count: int) -> Tensor:
        """Train; the last losses."""
        losses = torch.zeros(len(self._seeds))
        for _ in range(count):
            self._done += 1
            losses = self._stacked.step(torch.stack([seed.tokens(self._done) for seed in self._seeds]), RATE)
        return losses


def check(options: argparse.Namespace, steps: int = 5) -> float:
    """The largest difference between the losses of stacked and of separate seeds.

    Raises:
        AssertionError: it is larger than rounding.
    """
    alone = torch.stack([Seed(options, seed).steps(steps) for seed in range(options.seeds)])
    together = Stack(options).steps(steps)
    torch.testing.assert_close(together, alone, rtol=2e-2 if options.precision == "bfloat16" else 1e-4, atol=1e-4)
    return float((together - alone).abs().max())


def waited(device: str) -> float:
    """Seconds, once the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Separate:
    """Seeds by themselves: one after another, or on streams of their own."""

    def __init__(self, options: argparse.Namespace, *, streams: bool = False) -> None:
        self._seeds = [Seed(options, seed) for seed in range(options.seeds)]
        self._streams = [torch.cuda.Stream() for _ in self._seeds] if streams else None  # type: ignore[no-untyped-call]

    def steps(self, count: int) -> None:
        """Train every seed."""
        if self._streams is None:
            for seed in self._seeds:
                seed.steps(count)
            return
        threads = [
            threading.Thread(target=_on_stream, args=(stream, seed, count))
            for stream, seed in zip(self._streams, self._seeds, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _on_stream(stream: torch.cuda.Stream, seed: Seed, count: int) -> None:
    with torch.cuda.stream(stream):
        seed.steps(count)
    stream.synchronize()


class Processes:
    """Seeds in processes that wait for one another before they begin and after they end."""

    def __init__(self, options: argparse.Namespace) -> None:
        workers = min(options.seeds, options.workers or os.cpu_count() or 1)
        context = multiprocessing.get_context("spawn")
        self._begin, self._end = context.Barrier(workers + 1), context.Barrier(workers + 1)
        self._count = context.Value("i", 0)
        shares = [list(range(options.seeds))[worker::workers] for worker in range(workers)]
        arguments = (self._begin, self._end, self._count)
        self.processes = [
            context.Process(target=_work, args=(options, share, *arguments), daemon=True) for share in shares
        ]
        for process in self.processes:
            process.start()

    def steps(self, count: int) -> None:
        """Train every seed; a count of 0 ends the processes."""
        self._count.value = count
        self._begin.wait()
        if count:
            self._end.wait()


def _work(options: argparse.Namespace, share: list[int], begin: Any, end: Any, count: Any) -> None:
    torch.set_num_threads(options.threads)
    seeds = [Seed(options, seed) for seed in share]
    while True:
        begin.wait()
        if not count.value:
            return
        for seed in seeds:
            seed.steps(count.value)
        waited(options.device)
        end.wait()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every way of training the seeds, as plain data."""
    difference = check(options)
    processes = Processes(options)
    ways: dict[str, Separate | Stack | Processes] = {"after another": Separate(options), "stacked": Stack(options)}
    ways["processes"] = processes
    if options.device == "cuda":
        ways["streams"] = Separate(options, streams=True)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(options.rounds + 1):
        for name, way in ways.items():
            start = waited(options.device)
            way.steps(options.steps if round_ else 3)
            if round_:
                taken[name].append((waited(options.device) - start) / options.steps)
    processes.steps(0)
    base = taken["after another"]
    return {
        "model": options.model,
        "seeds": options.seeds,
        "workers": len(processes.processes),
        "threads": options.threads,
        "precision": options.precision,
        "hardware": torch.cuda.get_device_name() if options.device == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "rounds": options.rounds,
        "steps_a_round": options.steps,
        "steps_a_seed": options.run,
        "largest_difference_of_losses": difference,
        "ways": {
            name: {
                "ms_a_step_of_all": 1e3 * statistics.median(times),
                "seeds_per_hour": 3600.0 * options.seeds / (options.run * statistics.median(times)),
                "ratio": statistics.median(one / other for one, other in zip(base, times, strict=True)),
            }
            for name, times in taken.items()
        },
    }


def show(found: dict[str, Any]) -> None:
    """Print what was measured."""
    print(
        f"{found['hardware']}, torch {found['torch']}, {found['seeds']} seeds of {found['model']}, {found['threads']} "
        f"threads each, {found['precision']}; median of {found['rounds']} rounds of {found['steps_a_round']} steps"
    )
    print(f"losses of stacked and separate seeds differ by at most {found['largest_difference_of_losses']:.1e}")
    for name, row in found["ways"].items():
        label = f"processes ({found['workers']})" if name == "processes" else name
        print(
            f"{label:16s} {row['ms_a_step_of_all']:9.2f} ms for a step of all   {row['seeds_per_hour']:8.1f} seeds an "
            f"hour (of {found['steps_a_seed']} steps)   {row['ratio']:5.2f} x"
        )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default=None)
    parser.add_argument("--run", type=int, default=1500, help="steps of a whole seed")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    options.precision = options.precision or ("bfloat16" if options.device == "cuda" else "float32")
    return options


if __name__ == "__main__":
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    result = measure(arguments)
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
