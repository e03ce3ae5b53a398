"""Leaping in a plain PyTorch loop: a small GPT-2 reads the sources of Python's standard library.

Runs in seconds on a CPU and downloads nothing:  python examples/plain_pytorch.py
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from leapverify import LeapVerify

STEPS, BATCH, LENGTH = 200, 16, 32


def windows(part: slice) -> Tensor:
    """Some of the files, as windows of bytes: (n, LENGTH)."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[part]
    tokens = torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in files)), dtype=torch.uint8)
    return tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH).long()


def losses(model: nn.Module, rows: Tensor) -> Tensor:
    """One mean next-token loss for each sequence: the paired test compares them one by one."""
    logits = model(rows).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(len(rows), -1).mean(1)


def main() -> None:
    torch.set_num_threads(1)  # for a model this small a second thread costs more than it gives
    torch.manual_seed(0)
    train, heldout = windows(slice(1, None, 2)), windows(slice(0, None, 10))  # of different files
    shape = {"vocab_size": 256, "n_positions": LENGTH, "n_embd": 32, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, 1.0, total_iters=20)

    leap = LeapVerify(
        model,
        optimizer,
        heldout=heldout[:2048].split(16),
        loss=losses,
        scheduler=scheduler,
        interval=20,
        total_steps=STEPS,
        policy="line-search",
        predictor="linear",
        anneal=True,
    )
    for step in range(STEPS):
        rows = train[torch.randint(len(train), (BATCH,))]
        losses(model, rows).mean().backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        event = leap.step(rows)
        if event is not None:
            print(f"step {step + 1:3d} ({event.effective_step:3d} with leaps)  {event.status}: {event.reason}")
        if leap.effective_step >= STEPS:
            break

    annealed = leap.finish()  # the average of the last weights, if held-out data show it to be better
    report = leap.report()
    print(f"{report['accepted']} of {report['attempts']} leaps accepted, {report['leapt']} steps leapt over")
    print(f"annealed: {annealed.reason}")
    leap.close()


if __name__ == "__main__":
    main()
