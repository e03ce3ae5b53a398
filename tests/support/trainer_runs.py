"""Runs of the Trainer of transformers on a small GPT-2; apart from the tests, because it takes seconds to import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from leapverify.integrations.transformers import FILE, LeapCallback
from stdlib_gpt2 import ALWAYS, STEPS, batches, examples, small_gpt2

__all__ = ["FILE", "LeapCallback", "Losses", "Recorder", "heldout", "leaping", "trainer"]


class Recorder(TrainerCallback):
    """Notes at which global steps things happened."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.logged: list[dict[str, Any]] = []
        self.evaluated: list[int] = []
        self.saved: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logged.append(dict(logs))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.evaluated.append(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved.append(state.global_step)


class Losses(Trainer):
    """Notes the loss of every batch."""

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        loss = super().training_step(*arguments, **options)
        self.__dict__.setdefault("losses", []).append(loss.item())
        return loss


def trainer(out: Path, *callbacks: TrainerCallback, **settings: Any) -> Losses:
    """A Trainer of the small model, ready to go."""
    chosen = {
        "max_steps": STEPS,
        "logging_steps": 7,
        "save_strategy": "no",
        "lr_scheduler_type": "linear",
        "learning_rate": 3e-3,
        **settings,
    }
    arguments = TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=4,
        per_device_eval_batch_size=8,
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        seed=3,
        **chosen,
    )
    made = Losses(small_gpt2(), arguments, train_dataset=examples(0, 64), eval_dataset=examples(64, 8))
    made.pop_callback(
        next(each for each in made.callback_handler.callbacks if type(each).__name__ == "PrinterCallback")
    )
    for each in callbacks:
        made.add_callback(each)
    return made


def heldout() -> list[dict[str, torch.Tensor]]:
    """Batches to verify on."""
    return batches(72, 64)


def leaping(**options: Any) -> LeapCallback:
    """The callback that leaps at every second checkpoint."""
    return LeapCallback(heldout(), **{**ALWAYS, **options})
