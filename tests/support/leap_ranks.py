"""One small language model trained in one process, or by several ranks in any of the ways that torch has for it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from leapverify.core.shards import local, reshard
from leapverify.errors import RanksDivergedError
from leapverify.leap.api import LeapVerify

BATCH = 12
"""Sequences of a batch, of all ranks together."""
INTERVAL = 4


class Inside(nn.Module):
    """What is added to the embeddings."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)
        self.drop = nn.Dropout(dropout)

    def forward(self, inside: Tensor) -> Tensor:
        return 1.0 * self.drop(self.down(F.gelu(self.up(inside))))


class Small(nn.Module):
    """Tied, with shapes that no number of ranks divides and one parameter that most ranks hold nothing of."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 6)
        self.inside = Inside(dropout)
        self.scale = nn.Parameter(torch.ones(1))
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 32, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        inside = self.embed(ids)
        return 1.0 * self.head(self.norm(inside + self.scale * self.inside(inside)))


def losses(model: nn.Module, ids: Tensor) -> Tensor:
    """One mean loss for each sequence."""
    return F.cross_entropy(model(ids)[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(1)


def batch(number: int, count: int = BATCH) -> Tensor:
    """Sequences that count up in steps of 1 to 3; the same for the same number."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(1, 4, (count, 9), generator=generator).cumsum(1) % 32


class Way:
    """How a model is spread: what wraps it, into how many shares data are dealt, and which one a rank runs."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module], shares: int, share: Callable[[int], int]) -> None:
        self.wrap, self.shares, self.share = wrap, shares, share


def _ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def _fsdp(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model.inside, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _hsdp(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    fully_shard(model.inside, mesh=mesh)
    return fully_shard(model, mesh=mesh)


PLAN = {"inside.up": ColwiseParallel, "inside.down": RowwiseParallel}


def _tp(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return parallelize_module(model, mesh, {name: kind() for name, kind in PLAN.items()})


def _both(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    parallelize_module(model, mesh["tensor"], {name: kind() for name, kind in PLAN.items()})
    return fully_shard(model, mesh=mesh["data"])


def way(name: str, size: int) -> Way:
    """The way of a name over so many ranks."""
    if name == "tp":
        return Way(_tp, 1, lambda rank: 0)
    if name == "fsdp+tp":
        return Way(_both, 2, lambda rank: rank // 2)
    return Way({"ddp": _ddp, "fsdp": _fsdp, "hsdp": _hsdp}[name], size, lambda rank: rank)


class Run:
    """A model in training with everything around it; on several ranks each makes its own `Run` at the same point."""

    def __init__(self, spread: Way | None = None, *, dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> None:
        # A forked process begins with a stream of Python's own of which nobody knows.
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        self.shares = spread.shares if spread else 1
        self.share = spread.share(dist.get_rank()) if spread else 0
        model = Small(dropout).to(dtype)
        self.model = spread.wrap(model) if spread else model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.003)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 400)
        self.taken = 0

    def part(self, whole: Tensor) -> Tensor:
        """This rank's rows of a batch of all."""
        return whole.chunk(self.shares)[self.share]

    @property
    def heldout(self) -> list[Tensor]:
        """Batches such that what the ranks draw together is one batch of one process."""
        return [part for number in range(30) for part in batch(900 + number).chunk(self.shares)]

    def leap(self, **options: Any) -> LeapVerify:
        """An engine that acts quickly unless told otherwise."""
        given = {
            "heldout": self.heldout,
            "loss": losses,
            "probes": batch(5, 4),
            "scheduler": self.scheduler,
            "interval": INTERVAL,
            "budget": 1.0,
            "clock": "tokens",
            "step_tokens": 1e5,
            "policy": "fixed" if options.get("mode") != "monitor" else "auto",
            "sequences": 4 * BATCH,
            "patience_s": 20.0,
        }
        return LeapVerify(self.model, self.optimizer, **{**given, **options})

    def train(self, steps: int, leap: LeapVerify | None = None) -> list[Any]:
        """Take steps; the engine's events."""
        events = []
        for _ in range(steps):
            self.model.train()
            losses(self.model, self.part(batch(self.taken))).mean().backward()
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
            self.taken += 1
            event = leap.step() if leap is not None else None
            events += [event] if event is not None else []
        return events

    def weights(self) -> dict[str, Any]:
        """Every parameter, whole, as numpy."""
        reshard(self.model)
        return {name.removeprefix("module."): whole(each).numpy() for name, each in self.model.named_parameters()}

    def trace(self) -> str:
        """A hash of what this rank's training depends on: weights, moments, rates, modes, schedule, random streams."""
        reshard(self.model)
        held: list[Any] = [*self.model.named_parameters(), *self.model.named_buffers()]
        held += [self.optimizer.state_dict(), self.scheduler.state_dict()]
        held += [[module.training for module in self.model.modules()], random.getstate(), torch.get_rng_state()]
        held += [np.random.get_state()[1].tolist()]
        digest = hashlib.sha256()
        _add(held, digest)
        return digest.hexdigest()


def _add(value: Any, digest: Any) -> None:
    if isinstance(value, Tensor):
        part = local(value).contiguous().reshape(-1)
        digest.update(f"{part.dtype}{tuple(value.shape)}".encode() + part.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict | list | tuple):
        for each in value.items() if isinstance(value, dict) else value:
            _add(each, digest)
    else:
        digest.update(repr(value).encode())


def whole(tensor: Tensor) -> Tensor:
    """A copy of all of a tensor; of a DTensor on every rank."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def said(events: list[Any]) -> list[dict[str, Any]]:
    """What events say of decisions, without times and costs."""
    names = (
        "step", "effective_step", "status", "verdict", "predictor", "horizon", "regime", "similarity", "straightness",
        "loss_now", "loss_predicted", "gain", "lower", "steps_gained", "sequences", "raw_loss", "annealed_loss",
    )  # fmt: skip
    return [{name: getattr(event, name) for name in names} for event in events]


def refused(make: Callable[[], Any]) -> str:
    """The one sentence in which something is refused."""
    with pytest.raises((ValueError, RanksDivergedError), match=r"^[^\n]+$") as error:
        make()
    return str(error.value)
