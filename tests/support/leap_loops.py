"""Small training loops on many kinds of models, and a hash of everything that a run depends on."""

from __future__ import annotations

import hashlib
import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leapverify.leap.api import LeapVerify

STEPS = 24


@dataclass
class Loop:
    """A model with everything that trains it."""

    model: nn.Module
    batch: Callable[[int], Any]
    losses: Callable[[nn.Module, Any], Tensor]
    heldout: list[Any]
    optimizer: torch.optim.Optimizer = field(init=False)
    scheduler: Any = field(init=False)
    accumulate: int = 1
    scaler: Any = None
    lr: float = 0.01

    def __post_init__(self) -> None:
        moved = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(moved, lr=self.lr)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 400)

    def run(self, steps: int, leap: LeapVerify | None = None, start: int = 0) -> list[Any]:
        """Train; the events of the engine, if there is one."""
        events = []
        self.model.train()
        for step in range(start, start + steps):
            batch = self.batch(step)
            loss = self.losses(self.model, batch).mean()
            (self.scaler.scale(loss) if self.scaler else loss).backward()
            if (step + 1) % self.accumulate == 0:
                if self.scaler:
                    self.scaler.step(self.optimizer)
                    self.scaler.update()
                else:
                    self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
            if leap is not None:
                event = leap.step(batch)
                events += [event] if event else []
        return events

    def leap(self, **options: Any) -> LeapVerify:
        """An engine over this loop, quick to act unless told otherwise."""
        given = {
            "heldout": self.heldout,
            "loss": self.losses,
            "scheduler": self.scheduler,
            "interval": 4,
            "budget": 1.0,
            "clock": "tokens",
            "step_tokens": 1e5,
        }
        return LeapVerify(self.model, self.optimizer, **{**given, **options})


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """All streams seeded for a block, and put back."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed), np.random.seed(seed), torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python), np.random.set_state(numpy), torch.set_rng_state(cpu)


def fingerprint_of(loop: Loop) -> str:
    """A hash of weights, buffers, gradients, moments, counts, rates, modes, scaler, schedule and random streams."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode() + flat.view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                digest.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for each in value:
                add(each)
        else:
            digest.update(pickle.dumps(value))

    for name, parameter in loop.model.named_parameters():
        add([name, parameter, parameter.requires_grad, parameter.grad])
    add(dict(loop.model.named_buffers()))
    add([module.training for module in loop.model.modules()])
    add(loop.optimizer.state_dict())
    add(loop.scheduler.state_dict())
    add(loop.scaler.state_dict() if loop.scaler else None)
    add([random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()])
    return digest.hexdigest()


class Mlp(nn.Module):
    """Rows, dropout and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Vision(nn.Module):
    """A convolution with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(0.2))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class HomeMade(nn.Module):
    """A language model of one's own, its head tied to its embedding, one part frozen."""

    def __init__(self, frozen: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 16)
        self.mix = nn.GRU(16, 16, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(16, 32, bias=False)
        self.head.weight = self.embed.weight
        if frozen:
            self.mix.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.mix(self.embed(ids))[0])))


def classified(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def next_token(model: nn.Module, batch: Any) -> Tensor:
    ids = batch["input_ids"] if isinstance(batch, dict) else batch
    logits = model(ids)
    logits = getattr(logits, "logits", logits)[:, :-1]
    return F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(1)


def rows(seed: int, shape: tuple[int, ...], count: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *shape, generator=generator)
    return x, (x.flatten(1).sum(1) > 0).long() + (x.flatten(1)[:, 0] > 1).long()


def ids(seed: int, count: int = 16, length: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 4, (count, length), generator=generator).cumsum(1) % 32


def gpt2(lora: bool = False) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None,
        use_cache=False, attn_implementation="sdpa",
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    if lora:
        import peft

        settings = peft.LoraConfig(r=2, lora_dropout=0.1, target_modules=["c_attn"], fan_in_fan_out=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in a way of its past
            return peft.get_peft_model(model, settings)
    return model


def _mlp() -> Loop:
    return Loop(Mlp(), lambda i: rows(i, (12,)), classified, [rows(900 + i, (12,)) for i in range(20)])


def _vision() -> Loop:
    return Loop(Vision(), lambda i: rows(i, (1, 6, 6)), classified, [rows(900 + i, (1, 6, 6)) for i in range(20)])


def _text(model: nn.Module, **more: Any) -> Loop:
    return Loop(model, ids, next_token, [ids(900 + i) for i in range(20)], **more)


def _accumulating() -> Loop:
    return Loop(Mlp(), lambda i: rows(i, (12,)), classified, [rows(900 + i, (12,)) for i in range(20)], accumulate=3)


def _scaled() -> Loop:
    loop = _mlp()

    # A weight that makes the gradients infinite, so that the scaler skips the step, and the buffers stay finite.
    loop.batch = lambda i: (*rows(i, (12,)), float("inf") if i in (5, 11) else 1.0)
    loop.losses = lambda model, batch: classified(model, batch) * (batch[2] if len(batch) > 2 else 1.0)
    loop.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    return loop


def _compiled() -> Loop:
    return _text(torch.compile(HomeMade(), backend="eager"))


LOOPS: dict[str, Callable[[], Loop]] = {
    "mlp": _mlp,
    "vision": _vision,
    "home-made": lambda: _text(HomeMade()),
    "frozen": lambda: _text(HomeMade(frozen=True)),
    "gpt2": lambda: _text(gpt2()),
    "lora": lambda: _text(gpt2(lora=True)),
    "accumulating": _accumulating,
    "scaled": _scaled,
    "compiled": _compiled,
}


def make(name: str, seed: int = 0) -> Loop:
    """The loop of a name, its weights from a seed; the streams are seeded too, and stay so."""
    random.seed(seed), np.random.seed(seed), torch.default_generator.manual_seed(seed)
    return LOOPS[name]()
