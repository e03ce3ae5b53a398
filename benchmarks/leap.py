"""What the engine costs: a call between checkpoints, and a rejected leap at 124 M parameters.

First: nanoseconds of `leap.step()` where nothing is due, beside an empty method call. Goal: under 5 microseconds.

Second: predicting into the model and putting the weights back, per predictor, in copies of the weights (each copy reads
and writes all of them once, timed in turn) and in passes (each read or write of all of them is one). Goal: at most 4
copies. The loss here costs nothing, so the rest of a rejected leap (the forward passes) is left out.

Third: a training run of a small GPT-2 with and without the engine in each mode, in turn: seconds, the share that
`leap.step()` took of them, and the share that the engine says it took.

Fourth: what a history of half the memory costs in accuracy: the error of a linear prediction from rounded snapshots, as
a share of its step, on a GPT-2 that was really trained, and the held-out gain with either.

    python benchmarks/leap.py [--layers 12] [--repeats 5] [--threads N] [--steps 300] [--device cpu]
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leapverify.core.weights import all_finite, copy_, distance
from leapverify.leap.api import LeapVerify
from leapverify.leap.live_weights import LiveWeights, Storage
from leapverify.leap.optimizers import adam_state
from leapverify.leap.transaction import Transaction, kept_values
from leapverify.predict import predictor
from leapverify.trajectory.history import History

MICRO_S = 1e-6
CALLS = 200_000
PREDICTORS = ("linear", "quadratic", "momentum", "adam")


class Empty:
    """A method that does nothing."""

    def step(self, batch: Any = None) -> None:
        """Take a batch and do nothing."""
        del batch


def calls() -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    leap = LeapVerify(
        model, optimizer, heldout=[torch.randn(16, 4)] * 2, loss=lambda m, b: m(b).square().mean(1), interval=10**9
    )
    optimizer.step()
    print(f"{'a call of':34}{'ns':>8}")
    for name, target in (("an empty method", Empty()), ("leap.step() between checkpoints", leap)):
        step = target.step
        best = min(_timed(lambda step=step: [step() for _ in range(CALLS)]) for _ in range(5))  # type: ignore[misc]
        print(f"{name:34}{best / CALLS * 1e9:8.0f}")
    hooked, bare = _optimizer_step(True), _optimizer_step(False)
    print(f"the optimizer's step with the counting hook {hooked:.0f} ns, without {bare:.0f} ns")


def _optimizer_step(hooked: bool) -> float:
    model = nn.Linear(1, 1)
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer = torch.optim.SGD([model.weight], lr=0.1)
    leap = LeapVerify(model, optimizer, probes=torch.randn(4, 1), mode="monitor" if hooked else "off", interval=10**9)
    best = min(_timed(lambda: [optimizer.step() for _ in range(5000)]) for _ in range(5))
    leap.close()
    return best / 5000 * 1e9


def rejected(layers: int, repeats: int, device: torch.device) -> None:
    with torch.device(device):
        parameters = _gpt2_parameters(layers)
    model = nn.ParameterList(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    for each in parameters:
        optimizer.state[each] = {
            "step": torch.tensor(100.0),
            "exp_avg": torch.randn_like(each).mul_(1e-3),
            "exp_avg_sq": torch.rand_like(each).mul_(1e-6),
        }
    weights = LiveWeights(model, [optimizer], None, Storage(3))
    for step in (50, 100, 150):
        weights.history.push(step, parameters)
        with torch.no_grad():
            torch._foreach_mul_(list(parameters), 1.001)
    copy_([each.data for each in parameters], weights.history[-1].tensors)
    size = sum(each.numel() for each in parameters)
    print(f"\n{size / 1e6:.1f} M parameters, float32, {size * 4 / 1e6:.0f} MB; median of {repeats}")
    print(
        f"{'predictor':14}{'copy ms':>9}{'predict':>9}{'finite':>9}{'restore':>9}"
        f"{'all ms':>9}{'copies':>8}{'passes':>8}"
    )
    for name in PREDICTORS:
        _row(name, weights, optimizer, repeats, device)


def _row(name: str, weights: LiveWeights, optimizer: Any, repeats: int, device: torch.device) -> None:
    chosen = predictor(name)
    tensors, history = weights.tensors, weights.history
    if chosen.needs.optimizer_state:
        history.optimizer = adam_state([optimizer], tensors, history.steps[-1], [[[1e-4] * 50]])
    buffer = [torch.empty_like(each) for each in tensors]
    times: dict[str, list[float]] = {"copy": [], "predict": [], "finite": [], "restore": []}
    for _ in range(repeats + 1):
        times["copy"].append(_timed(lambda: copy_(buffer, history[-1].tensors), device))
        with Transaction(tensors, kept_values(tensors, history, torch.float32)) as transaction:
            times["predict"].append(_timed(partial(chosen.predict, history, 50, out=transaction.target), device))
            times["finite"].append(_timed(partial(all_finite, transaction.target), device))
            times["restore"].append(_timed(transaction.restore, device))
    found = {key: statistics.median(values[1:]) * 1e3 for key, values in times.items()}
    everything = found["predict"] + found["finite"] + found["restore"]
    reads = chosen.needs.snapshots + (2 if chosen.needs.optimizer_state else 0)
    passes = reads + 1 + 1 + 2  # snapshots and moments, the prediction, its check, and the way back
    print(
        f"{name:14}{found['copy']:9.1f}{found['predict']:9.1f}{found['finite']:9.1f}{found['restore']:9.1f}"
        f"{everything:9.1f}{everything / found['copy']:8.2f}{passes:8d}"
    )
    del buffer
    gc.collect()


def _gpt2_parameters(layers: int) -> list[nn.Parameter]:
    width = 768
    block = [(width,), (width,), (width, 3 * width), (3 * width,), (width, width), (width,)]
    block += [(width,), (width,), (width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    shapes = [(50257, width), (1024, width), *block * layers, (width,), (width,)]
    return [nn.Parameter(torch.randn(shape).mul_(0.02)) for shape in shapes]


def modes(steps: int, device: torch.device) -> None:
    print(f"\n{steps} steps of a GPT-2 of 2 x 64 over bytes, 8 x 64 tokens a step, interval 50")
    print(f"{'mode':22}{'s':>8}{'with/without':>14}{'in step() %':>13}{'own count %':>13}{'events':>8}")
    settings: dict[str, dict[str, Any]] = {
        "off": {"mode": "off"},
        "monitor": {"mode": "monitor"},
        "monitor, averages": {"mode": "monitor", "anneal": True},
        "shadow, auto": {"mode": "shadow"},
        "live, auto": {"mode": "live"},
        "live, fixed": {"mode": "live", "policy": "fixed", "horizon": 25},
    }
    _trained(20, device, {"mode": "monitor"})  # imports, and the first pass through everything
    bare = _trained(steps, device, None)[0]
    for name, options in settings.items():
        seconds, inside, leap = _trained(steps, device, options)
        assert leap is not None
        report = leap.report()
        shares = f"{100 * inside / seconds:13.2f}{100 * report['overhead']:13.2f}"
        print(f"{name:22}{seconds:8.2f}{seconds / bare:14.3f}{shares}{len(leap.events):8d}")


def _small(device: torch.device) -> tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor], Callable[[int], Tensor]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=256, n_positions=64, n_embd=64, n_layer=2, n_head=4, bos_token_id=None,
                        eos_token_id=None, use_cache=False, attn_implementation="sdpa")  # fmt: skip
    model = GPT2LMHeadModel(config).to(device)
    generator = torch.Generator().manual_seed(1)

    def batch(count: int) -> Tensor:
        start = torch.randint(0, 256, (count, 1), generator=generator)
        return ((start + torch.arange(64) * (1 + start % 5)) % 256).to(device)

    def losses(net: nn.Module, ids: Tensor) -> Tensor:
        logits = net(ids).logits[:, :-1]
        return F.cross_entropy(logits.transpose(1, 2).float(), ids[:, 1:], reduction="none").mean(1)

    return model, losses, batch


def _trained(
    steps: int, device: torch.device, options: dict[str, Any] | None
) -> tuple[float, float, LeapVerify | None]:
    model, losses, batch = _small(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    held = [batch(16) for _ in range(32)]
    leap = None if options is None else LeapVerify(model, optimizer, **{"heldout": held, "loss": losses, **options})
    inside, start = 0.0, time.perf_counter()
    for _ in range(steps):
        losses(model, batch(8)).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if leap is not None:
            inside -= time.perf_counter()
            leap.step()
            inside += time.perf_counter()
    return time.perf_counter() - start, inside, leap


def precision(device: torch.device) -> None:
    print("\nlinear prediction from rounded snapshots of the model above, 20 steps apart, K = 20")
    print(f"{'lr':>8}{'history':>12}{'error / step':>14}{'gain, nats':>12}{'gain, float32':>15}")
    for lr in (1e-3, 1e-4):
        model, losses, batch = _small(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
        tensors = list(model.parameters())
        kinds = (torch.float32, torch.bfloat16, torch.float16)
        histories = {kind: History(tensors, 2, dtype=kind) for kind in kinds}
        for step in range(1, 101):
            losses(model, batch(8)).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            if step in (80, 100):
                for history in histories.values():
                    history.push(step, tensors)
        held, now = batch(256), [each.detach().clone() for each in tensors]
        before = _mean(model, losses, held)
        exact = predictor("linear").predict(histories[torch.float32], 20)
        length = distance(exact, now)
        gains, errors = {}, {}
        for kind, history in histories.items():
            found = predictor("linear").predict(history, 20)
            with torch.no_grad():  # as an attempt does: what rounding did to theta_t itself is put right
                for each, here, kept in zip(found, now, history[-1].tensors, strict=True):
                    each.add_(here - kept.float())
            errors[kind] = distance(found, exact) / length
            copy_([each.data for each in tensors], found)
            gains[kind] = before - _mean(model, losses, held)
        for kind in kinds[1:]:
            name = str(kind).removeprefix("torch.")
            print(f"{lr:8g}{name:>12}{errors[kind]:14.4f}{gains[kind]:12.4f}{gains[torch.float32]:15.4f}")


def _mean(model: nn.Module, losses: Callable[[nn.Module, Tensor], Tensor], rows: Tensor) -> float:
    with torch.no_grad():
        return float(losses(model, rows).mean())


def _timed(call: Callable[[], Any], device: torch.device | None = None) -> float:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    calls()
    rejected(options.layers, options.repeats, device)
    modes(options.steps, device)
    precision(device)


if __name__ == "__main__":
    main()
