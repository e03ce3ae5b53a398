"""The language tasks: pre-training, and fine-tuning of what the race has pre-trained itself onto other text."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leapverify.errors import Damaged
from leapverify.io.storage import load_tensors, save_tensors
from leapverify.io.yaml_file import as_written
from leapverify.race.config import TextConfig, TextLength
from leapverify.race.tasks.task import Material, RaceTask
from leapverify.train.adapters import with_adapters
from leapverify.train.batches import Batch, Windows, batch_indices
from leapverify.train.corpus import Corpus, TokenSet, prepare
from leapverify.train.loop import train_step
from leapverify.train.losses import mean_loss, sequence_losses
from leapverify.train.models import build_model
from leapverify.train.optimizer import build_optimizer
from leapverify.train.schedule import Schedule
from leapverify.train.tokenizers import Tokenizer, load_tokenizer

PRETRAIN_SHARES = (0.9, 0.05, 0.05)
"""Documents that are trained on, held out and reported."""
FINETUNE_SHARES = (0.8, 0.1, 0.1)
"""Fine-tuning text is short: more of it is held out, lest the verifier meets the same sequences often."""
HELDOUT_ORDER = 1 << 32
"""Added to a run's seed for the order of its held-out batches, which is then not that of its training batches."""
VAL_BATCH = 64
"""Sequences that are run forward at once when the reported set is read, at least."""
BASE_WARMUP = 0.05
"""Share of a base model's steps over which eta rises."""


class Reader:
    """One source of text, as the runs of a task read it; nothing is read before it is asked for.

    Args:
        text: lengths and counts.
        source: as for `train.sources.load_documents`.
        shares: of documents for training, held-out and reported sets.
        device: where batches go.
    """

    def __init__(self, text: TextConfig, source: str, shares: tuple[float, float, float], device: str) -> None:
        self.text, self.source, self.device = text, source, device
        self._shares = shares

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """As configured."""
        return load_tokenizer(self.text.tokenizer)

    @cached_property
    def corpus(self) -> Corpus:
        """The text as tokens."""
        return prepare(self.source, self.tokenizer, fractions=self._shares)

    @cached_property
    def train(self) -> Windows:
        """Sequences that are trained on."""
        return self._windows(self.corpus.train, self.text.batch_size)

    @cached_property
    def heldout(self) -> Windows:
        """Sequences that decisions may read."""
        return self._windows(self.corpus.heldout, max(self.text.heldout_batch, self.text.probe_sequences))

    @cached_property
    def val(self) -> list[Batch]:
        """The reported set, which no decision reads."""
        windows = self._windows(self.corpus.val, self.text.val_sequences)
        chosen = windows.spread(self.text.val_sequences)
        size = max(VAL_BATCH, self.text.batch_size)
        return [self._cut(windows, chosen[start : start + size]) for start in range(0, len(chosen), size)]

    def batch(self, step: int, seed: int) -> Batch:
        """What step number `step` of a seed trains on."""
        return self._cut(self.train, batch_indices(len(self.train), self.text.batch_size, step, seed))

    def material(self, model: nn.Module, seed: int) -> Material:
        """A run of a seed that starts from this model."""
        model, windows = model.to(self.device).train(), self.heldout
        size, order, numbers = self.text.heldout_batch, seed + HELDOUT_ORDER, itertools.count(1)
        autocast = autocast_of(self.text)
        return Material(
            model=model,
            batch=lambda step: self.batch(step, seed),
            loss=partial(mean_loss, autocast=autocast),
            losses=partial(sequence_losses, autocast=autocast),
            heldout=lambda: self._cut(windows, batch_indices(len(windows), size, next(numbers), order)),
            heldout_size=-(-len(windows) // size),
            val=lambda: self.val,
            probes=self._cut(windows, windows.spread(self.text.probe_sequences)).tokens,
            step_positions=self.text.batch_size * self.text.sequence_length,
            grad_clip=self.text.grad_clip,
        )

    def _windows(self, tokens: TokenSet, at_least: int) -> Windows:
        return tokens.windows(self.text.sequence_length, at_least=at_least)

    def _cut(self, windows: Windows, indices: Any) -> Batch:
        return windows.batch(list(indices)).to(self.device)


def autocast_of(text: TextConfig) -> torch.dtype | None:
    """The precision of forward passes; None is that of the weights."""
    return torch.bfloat16 if text.precision == "bfloat16" else None


def untrained(reader: Reader, seed: int) -> nn.Module:
    """The seed's model with random weights, on the CPU."""
    return build_model(
        reader.text.model,
        seed=seed,
        vocab_size=reader.tokenizer.vocab_size,
        sequence_length=reader.text.sequence_length,
    )


class Base:
    """The models that are fine-tuned: one a seed, pre-trained once by AdamW on a cosine schedule, kept in a file."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def prepare(self, seed: int, folder: Path) -> None:
        """Pre-train the seed's model, unless the folder holds the one that this very recipe makes."""
        path, recipe = _path(seed, folder), self._recipe(seed)
        try:
            if load_tensors(path)[1].get("recipe") == recipe:
                return
        except Damaged:
            pass  # It is missing, or was not wholly written: it is made again.
        save_tensors(path, dict(self._trained(seed).named_parameters()), recipe=recipe)

    def load(self, seed: int, folder: Path) -> nn.Module:
        """The seed's pre-trained model, on the CPU.

        Raises:
            ValueError: `prepare` was not called, or the file is damaged or of another recipe.
        """
        path = _path(seed, folder)
        if not path.exists():
            raise ValueError(f"{path} is missing: call prepare(seed, folder) before material(seed, folder)")
        tensors, about = load_tensors(path)
        if about.get("recipe") != self._recipe(seed):
            raise ValueError(f"{path} was pre-trained by another recipe: call prepare(seed, folder) first")
        model = untrained(self.reader, seed)
        with torch.no_grad(), as_written(path, "delete it and give the same command again"):
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors[name])
        return model

    def _recipe(self, seed: int) -> dict[str, Any]:
        text = self.reader.text
        left_out = {"heldout_batch", "val_sequences", "probe_sequences"}
        return {"seed": seed, "corpus": self.reader.corpus.identity, **text.model_dump(mode="json", exclude=left_out)}

    def _trained(self, seed: int) -> nn.Module:
        text = self.reader.text
        model = untrained(self.reader, seed).to(self.reader.device)
        optimizer = build_optimizer(model.parameters(), text.base_lr, device=self.reader.device)
        schedule = Schedule("cosine", text.base_lr, round(BASE_WARMUP * text.base_steps), text.base_steps)
        loss = partial(mean_loss, autocast=autocast_of(text))
        for step in range(1, text.base_steps + 1):
            batch = self.reader.batch(step, seed)
            train_step(model, optimizer, batch, schedule(step), grad_clip=text.grad_clip, loss=loss)
        return model


def _path(seed: int, folder: Path) -> Path:
    return folder / f"base-seed-{seed}.safetensors"


def pretrain_task(length: TextLength, reader: Reader) -> RaceTask:
    """Pre-training from random weights."""
    return RaceTask(
        name="pretrain",
        **length.model_dump(),
        schedule="cosine",
        optimizers=("adamw", "muon"),
        rates=("tuned",),
        make=lambda seed, _: reader.material(untrained(reader, seed), seed),
    )


def finetune_task(length: TextLength, reader: Reader, base: Base) -> RaceTask:
    """Training of all weights of the base model on other text, at the usual and at a tuned learning rate."""
    return RaceTask(
        name="finetune",
        **length.model_dump(),
        schedule="cosine",
        optimizers=("adamw", "muon"),
        rates=("usual", "tuned"),
        make=lambda seed, folder: reader.material(base.load(seed, folder), seed),
        ready=base.prepare,
    )


def lora_task(length: TextLength, reader: Reader, base: Base) -> RaceTask:
    """Fine-tuning of low-rank adapters, by AdamW alone: Muon is no common choice for low-rank factors."""

    def make(seed: int, folder: Path) -> Material:
        return reader.material(with_adapters(base.load(seed, folder), reader.text.model.family, seed), seed)

    return replace(finetune_task(length, reader, base), name="lora", optimizers=("adamw",), make=make)
