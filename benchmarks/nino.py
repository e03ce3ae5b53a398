"""Time and memory of NiNo on weights shaped like GPT-2, beside the least that its multiplications take here.

The floor is the multiplications of the hidden layers at the rate of the same layer alone, on the same rows, timed in
turn with the prediction; the networks have random parameters of the published shapes, which costs the same.
Goals: `nino-mlp` at 124.4 M parameters within 30 s on 2 CPU cores and 1 GiB beyond the history.

    python benchmarks/nino.py [--layers 12] [--graph-layers 2] [--graph-width 128] [--hidden 128] [--threads N]
                              [--device cpu] [--cpu-time]

On a machine that is busy with other work, `--threads 1 --cpu-time` leaves the waiting out of both sides.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _measure import extra_bytes, seconds

from leapverify.predict import Predictor
from leapverify.predict.nino import nino, nino_mlp
from leapverify.predict.nino.checkpoint import graph_shapes, mlp_shapes
from leapverify.predict.nino.layers import linear, rows_of
from leapverify.trajectory.context import Layout
from leapverify.trajectory.history import History

CONTEXT = 1024
SPACING, HORIZON = 200, 1000


def gpt2_layout(layers: int, width: int, words: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (words, width), "wpe.weight": (CONTEXT, width)}
    for layer in range(layers):
        block: dict[str, tuple[int, ...]] = {
            "ln_1.weight": (width,),
            "ln_1.bias": (width,),
            "attn.c_attn.weight": (width, 3 * width),
            "attn.c_attn.bias": (3 * width,),
            "attn.c_proj.weight": (width, width),
            "attn.c_proj.bias": (width,),
            "ln_2.weight": (width,),
            "ln_2.bias": (width,),
            "mlp.c_fc.weight": (width, 4 * width),
            "mlp.c_fc.bias": (4 * width,),
            "mlp.c_proj.weight": (4 * width, width),
            "mlp.c_proj.bias": (width,),
        }
        shapes |= {f"h.{layer}.{name}": shape for name, shape in block.items()}
    return {**shapes, "ln_f.weight": (width,), "ln_f.bias": (width,)}


def filled_history(shapes: dict[str, tuple[int, ...]], heads: int, device: torch.device) -> History:
    generator = torch.Generator(device).manual_seed(0)
    point = [torch.randn(shape, generator=generator, device=device).mul_(0.02) for shape in shapes.values()]
    history = History(point, 5)
    for number in range(1, 6):
        history.push(SPACING * number, point)
        for each in point:
            each.add_(torch.randn(each.shape, generator=generator, device=device), alpha=1e-3)
    history.layout = Layout(tuple(shapes), "gpt2", heads, heads)
    return history


def checkpoint(folder: Path, hidden: int, *, graph: bool) -> Path:
    generator = torch.Generator().manual_seed(1)
    shapes = graph_shapes(hidden) if graph else mlp_shapes(hidden)
    state = {name: torch.randn(shape, generator=generator) / shape[-1] ** 0.5 for name, shape in shapes.items()}
    arguments = {"wte_pos_enc": False, "hid": hidden} if graph else {"gnn": False, "hid": hidden}
    file = folder / f"{'graph' if graph else 'mlp'}.pt"
    torch.save({"state_dict": state, "model_args": arguments}, file)
    return file


def rate(hidden: int, device: torch.device, clock: Callable[[], float]) -> float:
    """Multiplications and additions per second in one hidden layer, the best of some runs."""
    x = torch.randn(rows_of(device), hidden, device=device)
    weight, bias = torch.randn(hidden, hidden, device=device), torch.randn(hidden, device=device)
    rounds = 50

    def run() -> None:
        for _ in range(rounds):
            linear(x, weight, bias)

    run()
    best = min(seconds(run, device, clock) for _ in range(5))
    return 2 * rounds * x.shape[0] * hidden * hidden / best


def report(
    method: Predictor,
    history: History,
    products_per_parameter: tuple[int, int],
    options: argparse.Namespace,
    clock: Callable[[], float],
) -> None:
    """One line for the first prediction and one for a further horizon; H x H products per parameter in each."""
    device = history[-1].tensors[0].device
    parameters = sum(each.numel() for each in history[-1].tensors)
    out = [torch.zeros(each.shape, device=device) for each in history[-1].tensors]
    speed = rate(options.hidden, device, clock)
    for what, horizon, products in zip(
        ("first", "again"), (HORIZON, HORIZON // 2), products_per_parameter, strict=True
    ):
        took: list[float] = []
        added = extra_bytes(
            lambda horizon=horizon, took=took: took.append(  # type: ignore[misc]
                seconds(lambda: method.predict(history, horizon, out=out), device, clock)
            ),
            device,
        )
        speed = max(speed, rate(options.hidden, device, clock))
        floor = 2 * products * options.hidden**2 * parameters / speed
        memory = "" if added is None else f"{added / 2**20:8.0f} MiB beyond the history"
        print(
            f"{method.name:9s} {what}: {parameters / 1e6:6.1f} M parameters {took[0]:8.2f} s, floor {floor:7.2f} s at "
            f"{speed / 1e9:.0f} GFLOP/s, ratio {took[0] / floor:5.2f}, {memory}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=12, help="of width 768, for nino-mlp; 0: not run")
    parser.add_argument("--graph-layers", type=int, default=2, help="for nino; 0: not run")
    parser.add_argument("--graph-width", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=128, help="H of both networks; 32: the cheap published file's")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    clock = time.process_time if options.cpu_time else time.perf_counter
    threads, timed = torch.get_num_threads(), "CPU time" if options.cpu_time else "wall time"
    print(f"torch {torch.__version__}, {platform.machine()}, {device}, {threads} threads, {timed}, n = 1")
    with tempfile.TemporaryDirectory() as folder:
        if options.layers:
            history = filled_history(gpt2_layout(options.layers, 768, 50257), 12, device)
            report(nino_mlp(checkpoint(Path(folder), options.hidden, graph=False)), history, (2, 2), options, clock)
            del history
        if options.graph_layers:
            shapes = gpt2_layout(options.graph_layers, options.graph_width, 1000)
            history = filled_history(shapes, max(1, options.graph_width // 64), device)
            report(nino(checkpoint(Path(folder), options.hidden, graph=True)), history, (3, 2), options, clock)


if __name__ == "__main__":
    main()
