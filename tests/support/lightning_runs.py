"""Runs of Lightning on a small GPT-2; apart from the tests, because it takes seconds to import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from leapverify.integrations.lightning import LeapCallback
from leapverify.integrations.losses import causal_losses
from stdlib_gpt2 import ALWAYS, STEPS, batches, small_gpt2, windows

EPOCH = 16
"""Steps of an epoch; Lightning resumes plain loaders between epochs only."""


def module_of(package: Any, interval: str = "step", frequency: int = 1) -> Any:
    """The small model as a LightningModule of either package."""

    class Small(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.gpt = small_gpt2()
            self.seen: list[float] = []

        def on_train_batch_start(self, batch: torch.Tensor, index: int) -> None:
            torch.manual_seed(self.global_step)  # Lightning's checkpoints hold no random streams

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            losses, _ = causal_losses(self.gpt, {"input_ids": batch})
            self.seen.append(float(losses.detach().mean()))
            return losses.mean()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
            scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=STEPS)
            settings = {"scheduler": scheduler, "interval": interval, "frequency": frequency}
            return {"optimizer": optimizer, "lr_scheduler": settings}

    return Small()


def trained(
    out: Path, *callbacks: Any, package: Any = pl, module: Any = None, weights_only: bool | None = None, **settings: Any
) -> Any:
    """The trainer of a finished run of the small module."""
    ckpt_path = settings.pop("ckpt_path", None)
    module = module_of(package) if module is None else module
    torch.manual_seed(3)
    trainer = package.Trainer(
        accelerator="cpu",
        default_root_dir=out,
        callbacks=list(callbacks),
        logger=settings.pop("logger", False),
        enable_checkpointing=any(isinstance(each, package.callbacks.ModelCheckpoint) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{"max_steps": STEPS, **settings},
    )
    trainer.fit(module, DataLoader(windows(0, 4 * EPOCH), batch_size=4), ckpt_path=ckpt_path, weights_only=weights_only)
    return trainer


def heldout() -> list[Any]:
    """Batches to verify on."""
    return batches(72, 64)


def leaping(**options: Any) -> LeapCallback:
    """The callback that leaps at every second checkpoint."""
    return LeapCallback(heldout(), **{"module": "gpt", **ALWAYS, **options})


def saving(folder: Path) -> Any:
    """A callback that keeps a checkpoint of every epoch."""
    return pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=EPOCH, save_top_k=-1, filename="{step}")


class Two(pl.LightningModule):
    """Two networks with an optimizer each, stepped in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.gpt, self.other = small_gpt2(), torch.nn.Linear(3, 3)

    def training_step(self, batch: torch.Tensor, index: int) -> None:
        losses = causal_losses(self.gpt, {"input_ids": batch})[0].mean(), self.other(torch.ones(3)).sum()
        for loss, optimizer in zip(losses, self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(each.parameters(), lr=0.01) for each in (self.gpt, self.other)]
