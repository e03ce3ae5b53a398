"""What a whole sweep of one checkpoint costs, in time and in copies of the weights, and beside the paper's way.

(a) Time: the sweep against the forward passes that it needs, the same batches run bare, both in this process; goal 1.1.
Memory: the allocator's peak during the sweep above what stood before, in copies of the weights, activations included;
the candidate is the model itself and theta_t comes back from the history, so that no copy is held.

(b) Seconds per evaluation (one predictor, one K) beside the way that the paper's code is described: for each of them
the three snapshots are copied whole from host memory, the prediction is built as a new state dict and loaded, and every
batch's loss is read by itself. Both over the paper's three predictors, the same K and the same batches; goal 10 x.
Forward passes are the same for both and most of the time on a CPU, so that the rest is printed apart.

    python benchmarks/sweep.py [--device cuda] [--repeats 3] [--models "wide (4 x 384)"] [--cpu-time]

On a machine that is busy with other work, `--cpu-time` leaves the waiting out of everything.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from leapverify.config.study import SweepConfig
from leapverify.core.weights import trainable
from leapverify.io.records import Prediction
from leapverify.study.sweep import Sweeper, SweepPoint
from leapverify.train.batches import Batch, make_batch
from leapverify.train.losses import mean_loss, sequence_losses
from leapverify.train.models import ModelSpec, build_model
from leapverify.train.optimizer import build_optimizer
from leapverify.trajectory.history import History, OptimizerState
from leapverify.verify import Verifier

MODELS = {
    "tiny (2 x 64)": (ModelSpec(layers=2, hidden=64, heads=4, context=128), 16, 64, 256),
    "wide (4 x 384)": (ModelSpec(layers=4, hidden=384, heads=6, context=128), 4, 64, 4096),
    "124M (12 x 768)": (ModelSpec(layers=12, hidden=768, heads=12, context=1024), 16, 256, 50257),
}
ON_A_CPU = ("tiny (2 x 64)", "wide (4 x 384)")
SETTINGS = SweepConfig()
THE_PAPERS = SweepConfig(predictors=("linear", "quadratic", "momentum"))
DELTA = 50

State: TypeAlias = dict[str, Tensor]


class Apparatus:
    """A model with a history, ready to be swept; its loss function counts the passes."""

    def __init__(
        self,
        spec: ModelSpec,
        rows: int,
        length: int,
        vocabulary: int,
        device: torch.device,
        clock: Callable[[], float],
    ) -> None:
        self.clock, self.forward_s = clock, 0.0
        generator = torch.Generator().manual_seed(0)
        self.device, self.rows = device, rows
        self.model = build_model(spec, seed=0, vocab_size=vocabulary, sequence_length=length).to(device)
        self.named = trainable(self.model)
        self.parameters = list(self.named.values())
        self.optimizer = build_optimizer(self.parameters, 1e-4, device=device)
        self.history = History(self.parameters, 4)
        texts = [torch.randint(vocabulary, (rows, length), generator=generator) for _ in range(2)]
        self.batches = [make_batch(text).to(device) for text in texts]
        for step in range(1, 5):
            mean_loss(self.model, self.batches[0]).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.history.push(DELTA * step, self.parameters)
        self.history.optimizer = OptimizerState.from_optimizer(self.optimizer, self.parameters, step=4 * DELTA)
        self.passes: list[Batch] = []

    def loss(self, model: torch.nn.Module, batch: Batch) -> Any:
        """Per-sequence losses, noted; timed where nothing runs beside the host."""
        self.passes.append(batch)
        start = self.clock()
        found = sequence_losses(model, batch)
        self.forward_s += self.clock() - start
        return found

    def sweeper(self, settings: SweepConfig, batches: int) -> tuple[Sweeper, SweepPoint]:
        """A sweep whose fixed set is one batch and whose budget is so many, and where it is to be made."""
        verifier = Verifier(self.model, self.batches, self.loss, sequences=self.rows, budget=batches * self.rows)
        point = SweepPoint(0, self.history.steps[-1], "stable", verifier.measure(), 0.01)
        return Sweeper(self.parameters, self.history, verifier, settings), point

    def timed(self, call: Callable[[], object]) -> float:
        """Seconds of a call, until the device has done with it."""
        self.finish()
        start = self.clock()
        call()
        self.finish()
        return self.clock() - start

    def finish(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def whole(name: str, device: torch.device, clock: Callable[[], float], repeats: int) -> None:
    """(a): print time and memory of one model's sweep."""
    apparatus = Apparatus(*MODELS[name], device, clock)
    weights = sum(tensor.nbytes for tensor in apparatus.parameters)
    sweeper, point = apparatus.sweeper(SETTINGS, 2)
    copies = peak_bytes(device, lambda: sweeper.sweep(point)) / weights
    swept, bare = [], []
    for _ in range(repeats):
        apparatus.passes.clear()
        swept.append(apparatus.timed(lambda: sweeper.sweep(point)))
        batches = list(apparatus.passes)
        bare.append(apparatus.timed(partial(forward, apparatus, batches)))
    one, two = statistics.median(swept), statistics.median(bare)
    print(
        f"{name}: sweep of {len(SETTINGS.predictors)} x {len(SETTINGS.horizons)} {one:.3f} s, its {len(batches)} "
        f"forward passes {two:.3f} s, ratio {one / two:.3f} (medians of {repeats}); beyond the history {copies:.2f} "
        f"copies of the weights ({weights / 1e6:.1f} MB)"
    )


@torch.no_grad()
def forward(apparatus: Apparatus, batches: Sequence[Batch]) -> None:
    """The passes by themselves."""
    apparatus.model.eval()
    losses = [sequence_losses(apparatus.model, batch)[0] for batch in batches]
    torch.cat(losses).tolist()
    apparatus.model.train()


class PapersWay:
    """Three snapshots in host memory, copied to the device for each predictor and K."""

    def __init__(self, apparatus: Apparatus) -> None:
        self.a = apparatus
        names = list(apparatus.named)
        self.snapshots: list[State] = [
            {name: kept.cpu().clone() for name, kept in zip(names, snapshot.tensors, strict=True)}
            for snapshot in list(apparatus.history)[-3:]
        ]
        state = apparatus.optimizer.state
        self.moments = {name: state[each] for name, each in apparatus.named.items()}
        self.copying = self.forwarding = 0.0

    @torch.no_grad()
    def sweep(self) -> None:
        """Every predictor and K, one after another."""
        self.a.model.eval()
        for name in THE_PAPERS.predictors:
            for horizon in THE_PAPERS.horizons:
                self.copying += self.a.timed(partial(self.load, name, horizon))
                self.forwarding += self.a.timed(self.forward)
        self.a.model.load_state_dict(self.moved(self.snapshots[-1]), strict=False)
        self.a.model.train()

    def moved(self, snapshot: State) -> State:
        """A whole copy on the device."""
        return {name: tensor.to(self.a.device, copy=True) for name, tensor in snapshot.items()}

    def load(self, name: str, horizon: int) -> None:
        """The prediction as a new state dict, in the model."""
        older, before, now = map(self.moved, self.snapshots)
        s = horizon / DELTA
        predicted: State = {}
        for key, theta in now.items():
            if name == "momentum":
                state = self.moments[key]
                predicted[key] = theta + horizon * state["exp_avg"] / torch.sqrt(state["exp_avg_sq"] + 1e-8)
                continue
            step = theta - before[key]
            predicted[key] = theta + s * step
            if name == "quadratic":
                predicted[key] = predicted[key] + s * (s + 1) / 2 * (step - (before[key] - older[key]))
        self.a.model.load_state_dict(predicted, strict=False)  # tied heads have one name only

    def forward(self) -> None:
        """The fixed set, each batch's loss read by itself."""
        for batch in self.a.batches[:1]:
            mean_loss(self.a.model, batch).item()


def beside_the_papers(name: str, device: torch.device, clock: Callable[[], float], repeats: int) -> None:
    """(b): print seconds per evaluation of both ways."""
    apparatus = Apparatus(*MODELS[name], device, clock)
    sweeper, point = apparatus.sweeper(THE_PAPERS, 1)
    theirs = PapersWay(apparatus)
    evaluations = len(THE_PAPERS.predictors) * len(THE_PAPERS.horizons)
    theirs.sweep()
    sweeper.sweep(point)
    ours: list[tuple[float, float]] = []
    papers: list[tuple[float, float]] = []
    for _ in range(repeats):
        theirs.copying = theirs.forwarding = 0.0
        theirs.sweep()
        papers.append((theirs.copying, theirs.forwarding))
        rows: list[Prediction] = []
        apparatus.forward_s = 0.0
        seconds = apparatus.timed(partial(swept_into, rows, sweeper, point))
        passes = apparatus.forward_s if device.type == "cpu" else sum(row.verify_s for row in rows)
        ours.append((seconds - passes, passes))
    (rest, passes), (copying, forwarding) = (
        [1e3 * statistics.median(part) / evaluations for part in zip(*both, strict=True)] for both in (ours, papers)
    )
    print(
        f"{name}, per evaluation ({evaluations} of them, medians of {repeats}): the paper's way "
        f"{copying + forwarding:.2f} ms, of which forward {forwarding:.2f}; the sweep {rest + passes:.2f} ms, of which "
        f"forward {passes:.2f}; ratio {(copying + forwarding) / (rest + passes):.2f}, without the forward "
        f"passes {copying / rest:.2f} ({copying:.2f} and {rest:.2f} ms)"
    )


def swept_into(rows: list[Prediction], sweeper: Sweeper, point: SweepPoint) -> None:
    """Sweep, and keep the rows for their times."""
    rows += sweeper.sweep(point)


def peak_bytes(device: torch.device, action: Callable[[], object]) -> int:
    """Most bytes that torch's allocator held at once during an action, above those before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        action()
    assert found.profiler is not None
    results: Any = found.profiler.kineto_results
    held = peak = 0
    for event in sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    clock = time.process_time if options.cpu_time else time.perf_counter
    names = options.models or (ON_A_CPU if device.type == "cpu" else list(MODELS))
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{options.threads} thread(s)"
    print(f"torch {torch.__version__}, {device}: {kind}")
    for name in names:
        whole(name, device, clock, options.repeats)
    for name in names:
        beside_the_papers(name, device, clock, options.repeats)


if __name__ == "__main__":
    main()
