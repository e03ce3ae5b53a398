"""Leaping in a loop of Accelerate: accumulated batches, wrapped optimizer and scheduler, and a checkpoint.

Needs pip install 'leapverify[accelerate]'. Runs in seconds on a CPU and downloads nothing:
python examples/accelerate_loop.py
"""

from __future__ import annotations

import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

from leapverify import LeapVerify
from leapverify.integrations.losses import causal_losses

STEPS, BATCH, LENGTH, ACCUMULATED = 200, 8, 32, 2


def windows(part: slice) -> Any:
    """Some of the files, as windows of bytes: a list of examples, which serves as a data set."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[part]
    tokens = torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in files)), dtype=torch.uint8)
    rows = tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH).long()
    return [{"input_ids": row, "labels": row} for row in rows]


def main() -> None:
    torch.set_num_threads(1)  # for a model this small a second thread costs more than it gives
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED)
    shape = {"vocab_size": 256, "n_positions": LENGTH, "n_embd": 32, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, 1.0, total_iters=20)
    train, heldout = windows(slice(1, None, 10)), windows(slice(2, None, 10))  # of different files
    loader: Any = DataLoader(train, batch_size=BATCH, shuffle=True)
    model, optimizer, scheduler, loader = accelerator.prepare(model, optimizer, scheduler, loader)

    # The held-out loader is not prepared: its batches are the engine's alone, and the loss moves them to the model.
    leap = LeapVerify(
        accelerator.unwrap_model(model),
        optimizer,
        heldout=DataLoader(heldout, batch_size=16, shuffle=True),
        loss=causal_losses,
        scheduler=scheduler,
        interval=20,
        total_steps=STEPS,
        policy="line-search",
        predictor="linear",
    )
    accelerator.register_for_checkpointing(leap)

    model.train()
    for batch in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        event = leap.step()  # acts on real optimizer steps alone
        if event is not None:
            print(f"step {event.step:3d} ({event.effective_step:3d} with leaps)  {event.status}: {event.reason}")
        if leap.effective_step >= STEPS:
            break

    with tempfile.TemporaryDirectory() as folder:
        accelerator.save_state(folder)  # model, optimizer, scheduler, random streams and the engine
        accelerator.load_state(folder)
    print(f"{leap.real_step} real steps for {leap.effective_step}")
    leap.close()


if __name__ == "__main__":
    main()
