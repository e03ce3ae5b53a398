"""Time, bandwidth and extra memory of every predictor on weights shaped like a small GPT-2.

One row per predictor: milliseconds, bytes that must move (each input read once, the output written once), their rate as
a share of a plain copy's (counted read + written, timed in turn with the predictor), and the memory that predicting
added. `first` is the first prediction after a push, `again` any further horizon from the same history: norms of
displacements, which two predictors need before they can write, are taken once per history, and so is what those with a
Gram matrix solve for: their first prediction reads each snapshot once more, that of `anderson` once more per candidate
and that of `subspace` twice more per gradient. Losses and gradients themselves are stood in for and cost nothing.
Goal: at least 60 %, and no more memory than small blocks.

    python benchmarks/predict.py [--layers 5] [--snapshots 8] [--repeats 7] [--horizon 50] [--threads N] [--device cpu]
        [--cpu-time] [--only NAME ...]

On a machine that is busy with other work, `--threads 1 --cpu-time` leaves the waiting out of both sides.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from _measure import extra_bytes, seconds
from torch import Tensor

from leapverify.predict import Predictor, names, predictor
from leapverify.predict.anderson import GRID
from leapverify.predict.predictor import missing
from leapverify.trajectory.averages import PowerAverages
from leapverify.trajectory.history import GroupHyper, History, OptimizerState

WIDTH, VOCABULARY, CONTEXT = 768, 50257, 1024
FLOAT_BYTES = 4
SNAPSHOTS = 8
"""Held at most, unless told otherwise, also for predictors that would read more."""
COLUMNS = (
    ("predictor", 18),
    ("first ms", 9),
    ("again ms", 9),
    ("copy ms", 8),
    ("MB moved", 9),
    ("GB/s", 6),
    ("copy GB/s", 10),
    ("first", 6),
    ("again", 6),
    ("extra MB", 9),
)


def gpt2_shapes(layers: int) -> list[tuple[int, ...]]:
    block = [(WIDTH,), (WIDTH,), (WIDTH, 3 * WIDTH), (3 * WIDTH,), (WIDTH, WIDTH), (WIDTH,)]
    block += [(WIDTH,), (WIDTH,), (WIDTH, 4 * WIDTH), (4 * WIDTH,), (4 * WIDTH, WIDTH), (WIDTH,)]
    return [(VOCABULARY, WIDTH), (CONTEXT, WIDTH), *block * layers, (WIDTH,), (WIDTH,)]


class StandIn:
    """A constant loss, and the weights themselves for its gradient."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = weights

    def loss(self, weights: Sequence[Tensor]) -> float:  # noqa: ARG002
        """The constant."""
        return 1.0

    def gradient(self, weights: Sequence[Tensor], draw: int) -> tuple[Tensor, Sequence[Tensor]]:  # noqa: ARG002
        """The constant, and the weights."""
        return torch.ones(()), self.weights


def filled_history(
    shapes: list[tuple[int, ...]], methods: list[Predictor], device: torch.device, most: int = SNAPSHOTS
) -> History:
    snapshots = min(most, max(each.needs.reach for each in methods))
    generator = torch.Generator(device).manual_seed(0)

    def normal(scale: float) -> list[Tensor]:
        return [torch.randn(shape, generator=generator, device=device).mul_(scale) for shape in shapes]

    weights = normal(0.02)
    history = History(weights, snapshots)
    history.selection = history.gradients = StandIn(weights)
    if any(each.needs.averages for each in methods):
        history.averages = PowerAverages(4)
    if recent := max(each.needs.recent for each in methods):
        history.recent = History(weights, recent)
    for number in range(1, snapshots + 1):
        history.push(50 * number, weights)
        if history.recent is not None and number > snapshots - recent:
            history.recent.push(50 * snapshots - (snapshots - number), weights)
        torch._foreach_add_(weights, normal(1e-4))
    step = history.steps[-1]
    second = [each.square_() for each in normal(1e-3)]
    hyper = (GroupHyper(0.9, 0.999, 1e-8, 0.01),)
    count = len(shapes)
    history.optimizer = OptimizerState(
        tuple(normal(1e-4)),
        tuple(second),
        (step,) * count,
        (0,) * count,
        hyper,
        (lambda i: 5e-5 * (1 - i / 2000),),
        step,
    )
    return history


def tensors_moved(method: Predictor, history: History) -> int:
    """Tensors that are read, and the one that is written."""
    needs = method.needs
    if needs.averages:
        assert history.averages is not None
        return len(history.averages.states) + 1
    read = 2 if needs.recent else min(needs.reach, len(history))  # of consecutive states the first and the last
    return read + 2 * needs.optimizer_state + 1


def tensors_moved_at_first(method: Predictor, history: History) -> int:
    """The same where what it solves for has to be found first; the sums of two others are not counted."""
    moved, read = tensors_moved(method, history), min(method.needs.reach, len(history))
    if method.name in ("rre", "rank1") or method.name.startswith("dmd"):
        return read + moved
    if method.name == "anderson":
        return read + (len(GRID) + 1) * moved
    if method.name.startswith("subspace"):
        return read + 2 * (read + 1) * (read + 1) + moved  # a gradient for each snapshot, and one more
    return moved


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--snapshots", type=int, default=SNAPSHOTS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--horizon", type=int, default=50)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    shapes = gpt2_shapes(options.layers)
    methods = [predictor(name) for name in options.only or names()]
    history = filled_history(shapes, methods, device, options.snapshots)
    out = [torch.zeros(shape, device=device) for shape in shapes]
    print(f"{sum(each.numel() for each in out) / 1e6:.1f} M parameters in {len(shapes)} tensors, float32")
    threads = torch.get_num_threads()
    print(f"K = {options.horizon}, best of {options.repeats}, torch {torch.__version__}, {threads} threads")
    print(f"{device}: {torch.cuda.get_device_name(device) if device.type == 'cuda' else processor()}")
    print(" ".join(f"{title:>{width}}" for title, width in COLUMNS))
    for method in methods:
        print(row(method, history, out, options))


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def row(method: Predictor, history: History, out: list[Tensor], options: argparse.Namespace) -> str:
    device = out[0].device
    clock = time.process_time if options.cpu_time else time.perf_counter
    newest = list(history[-1].tensors)

    def run() -> object:
        return method.predict(history, options.horizon, out=out)

    if lack := missing(method.needs, history):
        return f"{method.name:>{COLUMNS[0][1]}} not timed here: {lack}"
    history.forget()
    extra = extra_bytes(run, device)
    first, again, copied = [], [], []
    for _ in range(options.repeats):
        copied.append(seconds(lambda: torch._foreach_copy_(out, newest), device, clock))
        history.forget()
        first.append(seconds(run, device, clock))
        again.append(seconds(run, device, clock))
    theta_bytes = FLOAT_BYTES * sum(each.numel() for each in out)
    moved = tensors_moved(method, history) * theta_bytes
    at_first = tensors_moved_at_first(method, history) * theta_bytes
    copy_rate = 2 * theta_bytes / min(copied)
    values = [
        f"{1e3 * min(first):.1f}",
        f"{1e3 * min(again):.1f}",
        f"{1e3 * min(copied):.1f}",
        f"{moved / 1e6:.0f}",
        f"{moved / min(again) / 1e9:.1f}",
        f"{copy_rate / 1e9:.1f}",
        f"{at_first / min(first) / copy_rate:.0%}",
        f"{moved / min(again) / copy_rate:.0%}",
        "unknown" if extra is None else f"{extra / 1e6:.1f}",
    ]
    return " ".join(f"{value:>{width}}" for value, (_, width) in zip([method.name, *values], COLUMNS, strict=True))


if __name__ == "__main__":
    main()
