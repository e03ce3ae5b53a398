"""Our training step beside the Hugging Face Trainer: same weights, batches, precision, optimizer and number of steps.

Both train in one process, each its own copy of one model, in alternating rounds; a round begins with steps that are not
counted. Trainer: its defaults (AdamW fused, clipping at 1, a constant rate) with logging, saving and the progress bar
off, or compiled with --trainer-compile. Ours: the step of a study. Goal: 1.5 times its tokens per second. Medians. Its
losses are divided by all tokens, ours by those that are predicted, one a sequence less.

    python benchmarks/trainer.py [--model NAME] [--device cpu|cuda] [--compile MODE] [--json FILE]

Not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import platform
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from leapverify.train.batches import Batches, Windows
from leapverify.train.loop import train_step
from leapverify.train.losses_compiled import Losses, causal_attention
from leapverify.train.models import ModelSpec, build_model, gpt2_124m_spec, qwen_1_5b_spec
from leapverify.train.optimizer import build_optimizer

MODELS: dict[str, tuple[ModelSpec, int]] = {
    "tiny": (ModelSpec(layers=2, hidden=64, heads=4, context=256), 256),
    "wide": (ModelSpec(layers=4, hidden=256, heads=4, context=256), 8192),
    "gpt2-124m": (gpt2_124m_spec(), 50257),
    "qwen2.5-1.5b": (qwen_1_5b_spec(), 151936),
}
"""Architecture and vocabulary."""
UNCOUNTED = 3
"""Steps at the beginning of a round."""


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Sequences as the Trainer wants them."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._tokens[index], "labels": self._tokens[index]}


class Timer(TrainerCallback):  # type: ignore[misc]
    """Seconds from the end of the last uncounted step to the end of the last one."""

    def __init__(self, device: str, last: int) -> None:
        self._device, self._last = device, last
        self.seconds = self._start = 0.0

    def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Look at the clock, with nothing left to do on the device."""
        if state.global_step in (UNCOUNTED, self._last):
            now = clock(self._device)
            self.seconds, self._start = now - self._start, now


def clock(device: str) -> float:
    """Seconds, once the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Theirs:
    """The Hugging Face Trainer."""

    def __init__(self, model: nn.Module, tokens: torch.Tensor, options: argparse.Namespace, folder: str) -> None:
        self._options = options
        settings: dict[str, Any] = {
            "output_dir": folder,
            "per_device_train_batch_size": options.batch,
            "bf16": options.precision == "bfloat16",
            "learning_rate": 5e-5,
            "weight_decay": 0.01,
            "lr_scheduler_type": "constant",
            "torch_compile": options.trainer_compile,
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": options.device == "cpu",
            "max_steps": options.steps + UNCOUNTED,
        }
        self._trainer: Any = Trainer(model=model, args=TrainingArguments(**settings), train_dataset=Rows(tokens))
        self._trainer.remove_callback(PrinterCallback)
        self.loss = 0.0

    def round(self) -> float:
        """Seconds of the counted steps."""
        timer = Timer(self._options.device, self._options.steps + UNCOUNTED)
        self._trainer.add_callback(timer)
        self.loss = self._trainer.train().training_loss
        self._trainer.remove_callback(timer)
        return timer.seconds


class Ours:
    """The step of a study."""

    def __init__(self, model: nn.Module, tokens: torch.Tensor, options: argparse.Namespace) -> None:
        count, length = tokens.shape
        starts = np.arange(count, dtype=np.int64) * length
        windows = Windows(tokens.flatten().numpy(), starts, starts + length, length, 0)
        self._model, self._options = causal_attention(model.to(options.device)).train(), options
        self._batches = Batches(windows, options.batch, 0, options.device)
        self._optimizer = build_optimizer(model.parameters(), 5e-5, device=options.device)
        autocast = torch.bfloat16 if options.precision == "bfloat16" else None
        self._losses, self._done = Losses(autocast=autocast, mode=options.compile), 0

    def round(self) -> float:
        """Seconds of the counted steps."""
        self._steps(UNCOUNTED)
        start = clock(self._options.device)
        self._steps(self._options.steps)
        return clock(self._options.device) - start

    def _steps(self, count: int) -> None:
        total = torch.zeros((), device=self._options.device)
        for step in range(self._done + 1, self._done + count + 1):
            total += train_step(self._model, self._optimizer, self._batches(step), 5e-5, loss=self._losses.mean)
        self._done += count
        self.loss = float(total) / count


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both sides, as plain data."""
    spec, vocabulary = MODELS[options.model]
    model = build_model(spec, seed=0, vocab_size=vocabulary, sequence_length=options.length)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(
        vocabulary, (options.batch * (options.steps + UNCOUNTED), options.length), generator=generator
    )
    with tempfile.TemporaryDirectory() as folder:
        sides: dict[str, Ours | Theirs] = {"ours": Ours(copy.deepcopy(model), tokens, options)}
        sides["trainer"] = Theirs(model, tokens, options, folder)
        for side in sides.values():
            side.round()
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, side in sides.items():
                taken[name].append(side.round())
    counted = options.batch * options.length * options.steps
    ratios = [theirs / ours for ours, theirs in zip(taken["ours"], taken["trainer"], strict=True)]
    return {
        "model": options.model,
        "batch": [options.batch, options.length],
        "precision": options.precision,
        "compile": options.compile,
        "trainer_compile": options.trainer_compile,
        "hardware": torch.cuda.get_device_name() if options.device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "steps_a_round": options.steps,
        "rounds": options.rounds,
        "tokens_per_s": {name: counted / statistics.median(times) for name, times in taken.items()},
        "last_loss": {name: side.loss for name, side in sides.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def show(found: dict[str, Any]) -> None:
    """Print what was measured."""
    print(
        f"{found['hardware']}, {found['threads']} threads, torch {found['torch']}, {found['model']}, batch "
        f"{found['batch'][0]} x {found['batch'][1]}, {found['precision']}; median of {found['rounds']} rounds of "
        f"{found['steps_a_round']} steps"
    )
    speeds = found["tokens_per_s"]
    losses = found["last_loss"]
    print(f"ours, compile {found['compile']:16s} {speeds['ours']:10.0f} tokens/s, last loss {losses['ours']:.3f}")
    compiled = "compiled" if found["trainer_compile"] else "as it is"
    print(f"Trainer, {compiled:21s} {speeds['trainer']:10.0f} tokens/s, last loss {losses['trainer']:.3f}")
    print(f"ratio {found['ratio']:.2f} (rounds {min(found['ratios']):.2f} to {max(found['ratios']):.2f}), goal 1.5")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--compile", choices=["off", "default", "reduce-overhead"], default=None)
    parser.add_argument("--trainer-compile", action="store_true")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default=None)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    cuda = options.device == "cuda"
    options.compile = options.compile or ("reduce-overhead" if cuda else "off")
    options.precision = options.precision or ("bfloat16" if cuda else "float32")
    return options


if __name__ == "__main__":
    arguments = parsed()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    result = measure(arguments)
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
