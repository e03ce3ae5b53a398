"""Leaping on several ranks: a small GPT-2 under `torchrun`, sharded by `fully_shard` or copied by DDP.

Runs in seconds on CPUs (gloo) and downloads nothing; with GPUs it uses nccl and one of them a rank:

    python -m torch.distributed.run --nproc-per-node 2 examples/torchrun_live.py --way fsdp
    python -m torch.distributed.run --nproc-per-node 2 examples/torchrun_live.py --way ddp
"""

from __future__ import annotations

import argparse
import os
import sysconfig
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

STEPS, BATCH, LENGTH = 60, 16, 32


def windows(part: slice) -> Tensor:
    """Some of the standard library's files, as windows of bytes: (n, LENGTH)."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[part]
    tokens = torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in files)), dtype=torch.uint8)
    return tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH).long()


def losses(model: nn.Module, rows: Tensor) -> Tensor:
    """One mean next-token loss for each sequence of this rank."""
    rows = rows.to(next(model.parameters()).device)
    logits = model(rows).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(len(rows), -1).mean(1)


def spread(model: Any, way: str, device: torch.device) -> Any:
    """The model on its device, spread over the ranks."""
    model = model.to(device)
    if way == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in model.transformer.h:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--way", choices=("fsdp", "ddp"), default="fsdp")
    way = arguments.parse_args().way
    if "RANK" not in os.environ:
        arguments.error(
            "give it to torchrun: python -m torch.distributed.run --nproc-per-node 2 examples/torchrun_live.py"
        )
    torch.set_num_threads(1)
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank = dist.get_rank()

    torch.manual_seed(0)  # the same weights on every rank
    train, heldout = windows(slice(1, None, 2)), windows(slice(0, None, 10))  # of different files
    shape = {"vocab_size": 256, "n_positions": LENGTH, "n_embd": 32, "n_layer": 2, "n_head": 2}
    model = spread(GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)), way, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, 1.0, total_iters=20)

    leap = LeapVerify(
        model,
        optimizer,
        heldout=torch.split(heldout[:2048], 16),  # the same on every rank: it is dealt out
        loss=losses,
        scheduler=scheduler,
        interval=10,
        total_steps=STEPS,
        policy="fixed",
        predictor="linear",
    )
    generator = torch.Generator().manual_seed(1 + rank)  # other training data on every rank
    while leap.effective_step < STEPS:
        rows = train[torch.randint(len(train), (BATCH,), generator=generator)]
        loss: Any = losses(model, rows).mean()
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        event = leap.step(rows)
        if event is not None and rank == 0:
            print(f"step {event.step:2d} ({event.effective_step:2d} with leaps)  {event.status}: {event.reason}")

    report = leap.report()
    if rank == 0:
        print(f"{report['accepted']} of {report['attempts']} leaps accepted on {dist.get_world_size()} ranks ({way})")
    leap.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
