"""Leaping in Lightning: a small GPT-2 reads the sources of Python's standard library.

Needs pip install 'leapverify[lightning]'. Runs in seconds on a CPU and downloads nothing:
python examples/lightning_callback.py
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

from leapverify.integrations.lightning import LeapCallback

STEPS, BATCH, LENGTH = 200, 16, 32


def windows(part: slice) -> Any:
    """Some of the files, as windows of bytes: a list of examples, which serves as a data set."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[part]
    tokens = torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in files)), dtype=torch.uint8)
    rows = tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH).long()
    return [{"input_ids": row, "labels": row} for row in rows]


class SmallGPT2(lightning.LightningModule):
    """The model, its loss and its optimizer."""

    def __init__(self) -> None:
        super().__init__()
        shape = {"vocab_size": 256, "n_positions": LENGTH, "n_embd": 32, "n_layer": 2, "n_head": 2}
        self.network = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        """The loss of one batch."""
        return self.network(**batch).loss

    def configure_optimizers(self) -> Any:
        """AdamW with a warm-up that steps with every batch, so that a leap moves it on."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, 1.0, total_iters=20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main() -> None:
    torch.set_num_threads(1)  # for a model this small a second thread costs more than it gives
    lightning.seed_everything(0, verbose=False)
    train, heldout = windows(slice(1, None, 10)), windows(slice(2, None, 10))  # of different files
    leap = LeapCallback(
        heldout=DataLoader(heldout, batch_size=16, shuffle=True),
        module="network",
        interval=20,
        policy="line-search",
        predictor="linear",
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        callbacks=[leap],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(SmallGPT2(), DataLoader(train, batch_size=BATCH, shuffle=True))

    for event in leap.leap.events if leap.leap else []:
        print(f"step {event.step:3d} ({event.effective_step:3d} with leaps)  {event.status}: {event.reason}")
    print(f"{trainer.global_step} real steps for {leap.effective_step}")


if __name__ == "__main__":
    main()
