"""What the engine costs on several ranks: a checkpoint on one and on more of them, and what their meetings take.

A small GPT-2 is trained on bytes by 1 and by more ranks of gloo on this machine, each with one thread. Every rank runs
as many sequences a step, and a verdict rests on 16 held-out sequences of all ranks together. At every checkpoint one
leap is tried and refused, so that each does the same work. Per checkpoint, median over all but the first three and over
the ranks: milliseconds inside `leap.step()`; how often the ranks met in it, milliseconds that they spent there (waiting
for one another included), and bytes that a rank brought along. Last, a meeting for its own sake.

    python benchmarks/ranks.py [--ranks 1 2] [--steps 240] [--interval 10]
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import pickle
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import GPT2Config, GPT2LMHeadModel

from leapverify import LeapVerify
from leapverify.core.ranks import ranks_of_world

WAYS = ("ddp", "fully_shard")
WARM_UP = 3
"""Checkpoints that are not counted: the first buffers are allocated in them."""
VERDICT = 16
"""Sequences of a verdict."""
MEETINGS = 500


def losses(model: nn.Module, rows: Tensor) -> Tensor:
    logits = model(rows).logits[:, :-1]
    return F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none").mean(1)


def spread(way: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=256, n_positions=64, n_embd=64, n_layer=2, n_head=4, bos_token_id=None,
                        eos_token_id=None, use_cache=False, attn_implementation="sdpa")  # fmt: skip
    model = GPT2LMHeadModel(config)
    if size == 1:
        return model
    if way == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (size,))
    for block in model.transformer.h:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


class Watched:
    """A rank's way to meet the others, with count, time and bytes."""

    def __init__(self, gather: Any) -> None:
        self._gather = gather
        self.begin_anew()

    def begin_anew(self) -> None:
        """Count from here."""
        self.count, self.seconds, self.sent = 0, 0.0, 0

    def __call__(self, word: Any) -> list[Any]:
        """Meet."""
        self.count, self.sent = self.count + 1, self.sent + len(pickle.dumps(word))
        start = time.perf_counter()
        found: list[Any] = self._gather(word)
        self.seconds += time.perf_counter() - start
        return found


def trained(way: str, size: int, steps: int, interval: int) -> dict[str, float]:
    """Medians of one rank."""
    model = spread(way, size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    shared = torch.Generator().manual_seed(1)
    heldout = [_rows(VERDICT // size, shared) for _ in range(16 * size)]
    options: dict[str, Any] = {"policy": "fixed", "predictor": "linear", "criterion": "never", "interval": interval}
    leap = LeapVerify(model, optimizer, heldout=heldout, loss=losses, **options)
    assert leap._driver is not None
    ranks = leap._driver.engine.ranks
    ranks.gather = watched = Watched(ranks.gather)
    own = torch.Generator().manual_seed(2 + ranks.rank)
    rows: list[tuple[float, ...]] = []
    outside: list[float] = []
    for _ in range(steps):
        start = time.perf_counter()
        loss: Any = losses(model, _rows(8, own)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        watched.begin_anew()
        middle = time.perf_counter()
        event = leap.step()
        if event is not None:
            rows.append((time.perf_counter() - middle, watched.count, watched.seconds, watched.sent))
        outside.append(middle - start)
    assert leap.disabled is None, leap.disabled
    assert all(event.status == "rejected" for event in leap.events[WARM_UP:])
    seconds, count, meeting, sent = (statistics.median(row[i] for row in rows[WARM_UP:]) for i in range(4))
    return {"step": statistics.median(outside), "all": seconds, "count": count, "meeting": meeting, "sent": sent}


def met(*nothing: Any) -> dict[str, float]:
    """Seconds of a meeting that brings nothing."""
    del nothing
    ranks = ranks_of_world()
    for _ in range(20):
        ranks.all_gather("warm up", None)
    start = time.perf_counter()
    for _ in range(MEETINGS):
        ranks.all_gather("nothing", None)
    return {"meeting": (time.perf_counter() - start) / MEETINGS}


def _rows(count: int, generator: torch.Generator) -> Tensor:
    start = torch.randint(0, 256, (count, 1), generator=generator)
    return (start + torch.arange(64) * (1 + start % 5)) % 256


def on_ranks(size: int, work: Any, *arguments: Any) -> dict[str, float]:
    """The means over the ranks of what each found."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        started = [
            context.Process(target=_rank, args=(rank, size, store, answers, work, arguments)) for rank in range(size)
        ]
        for each in started:
            each.start()
        found = [answers.get(timeout=600.0) for _ in started]
        for each in started:
            each.join()
    return {name: statistics.mean(each[name] for each in found) for name in found[0]}


def _rank(rank: int, size: int, store: Path, answers: Any, work: Any, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if size > 1:
        patience = datetime.timedelta(seconds=300)
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=patience)
    answers.put(work(*arguments))
    if size > 1:
        dist.destroy_process_group()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--steps", type=int, default=240)
    arguments.add_argument("--interval", type=int, default=10)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, gloo, 1 thread a rank")
    print(f"{given.steps} steps of a GPT-2 of 2 x 64, 8 x 64 tokens a step and rank, interval {given.interval}")
    columns = ("step ms", "checkpoint ms", "to 1 rank", "meetings", "in them ms", "kB")
    print(f"{'ranks':>5}  {'way':12}" + "".join(f"{name:>15}" for name in columns))
    base: float | None = None
    for size in given.ranks:
        for way in WAYS if size > 1 else ("whole",):
            found = on_ranks(size, trained, way, size, given.steps, given.interval)
            base = found["all"] if base is None else base
            cells = [1e3 * found["step"], 1e3 * found["all"], found["all"] / base, found["count"]]
            cells += [1e3 * found["meeting"], found["sent"] / 1e3]
            print(f"{size:5d}  {way:12}" + "".join(f"{cell:15.2f}" for cell in cells))
    for size in given.ranks:
        if size > 1:
            empty = 1e6 * on_ranks(size, met)["meeting"]
            print(f"a meeting of {size} ranks that brings nothing: {empty:.0f} microseconds")


if __name__ == "__main__":
    main()
