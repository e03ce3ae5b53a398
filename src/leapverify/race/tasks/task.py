"""A task of a race, and the material of one run of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from leapverify.verify.heldout import LossOutput


@dataclass(slots=True)
class Material:
    """One run of one seed, before its first step: the same seed gives the same numbers, whatever arm it is for."""

    model: nn.Module
    """The seed's initial weights, on the device, in training mode."""
    batch: Callable[[int], Any]
    """Number of a real step, from 1 -> the batch that it trains on."""
    loss: Callable[[nn.Module, Any], Tensor]
    """The training loss, a scalar with its graph."""
    losses: Callable[[nn.Module, Any], LossOutput]
    """One loss for each sequence or row, for verification."""
    heldout: Callable[[], Any]
    """One more held-out batch a call: of training text that is not trained on, in an order of the seed's own."""
    heldout_size: int | None
    """Batches that go once through the held-out set; None: every batch is a new one."""
    val: Callable[[], list[Any]]
    """The reported set, the same list each time; no decision reads it."""
    probes: Any
    """What the fingerprint is taken of; None: held-out inputs serve."""
    step_positions: int
    """Positions that one training step runs forward: tokens, or rows of a table."""
    grad_clip: float | None = None
    """Largest norm of all gradients together before a step; None leaves them."""
    layer: str | None = None
    """Module to fingerprint; None: the model's last norm or the input of its head."""
    reported: Callable[[nn.Module, Any], LossOutput] | None = None
    """The same as `losses` for the reported set, where several ranks share its rows; None: `losses`."""
    shares: int = 1
    """Draws of `heldout` that are one held-out batch: its parts, where ranks share it."""


@dataclass(slots=True)
class RaceTask:
    """Something to train, with all that decides how it is trained but the arm."""

    name: str
    """pretrain | finetune | lora | convex | noise."""
    steps: int
    """Planned optimizer steps."""
    warmup_steps: int
    """Of them, those over which eta rises."""
    eval_every: int
    """Real steps between readings of the reported loss."""
    interval: int
    """Delta, steps between checkpoints."""
    schedule: str
    """The shape of the baseline's learning rate, a kind of `train.schedule.Schedule`: cosine for what is learned from
    noisy batches, constant where a decay can only lose."""
    optimizers: tuple[str, ...]
    """Names that `race.optimizers` knows."""
    rates: tuple[str, ...]
    """tuned, usual, or both: where the learning rate comes from."""
    usual: Mapping[str, float]
    """Optimizer -> the peak of eta that people take without tuning; not every optimizer has one."""
    grids: Mapping[str, tuple[float, ...]]
    """Optimizer -> the peaks among which tuning chooses, ascending."""
    make: Callable[[int, Path], Material]
    """(seed, folder) -> a fresh run of the seed; ValueError: data or packages are missing, or `prepare` was not called.
    """
    ready: Callable[[int, Path], None] | None = None
    """(seed, folder): makes and keeps in the folder what all runs of the seed start from, unless it lies there."""
    raced: tuple[str, ...] = ("tuned", "usual")
    """Of `rates`, those that are raced."""

    def rates_of(self, optimizer: str) -> tuple[str, ...]:
        """Those of `rates` that are raced and that an optimizer has; not every one has a usual rate."""
        wanted = [rate for rate in self.rates if rate in self.raced]
        return tuple(rate for rate in wanted if rate != "usual" or self._own(optimizer) in self.usual)

    def usual_lr(self, optimizer: str) -> float:
        """The peak that people take without tuning."""
        return self.usual[self._own(optimizer)]

    def grid(self, optimizer: str) -> tuple[float, ...]:
        """The peaks among which tuning chooses, ascending."""
        return self.grids[self._own(optimizer)]

    def prepare(self, seed: int, folder: Path) -> None:
        """Make and keep in the folder what all runs of a seed start from; does nothing where it is there."""
        if self.ready is not None:
            self.ready(seed, folder)

    def material(self, seed: int, folder: Path) -> Material:
        """A fresh run of a seed; see `make`."""
        return self.make(seed, folder)

    def _own(self, optimizer: str) -> str:
        if optimizer not in self.optimizers:
            raise ValueError(f"task {self.name} is not run with {optimizer}: give {', '.join(self.optimizers)}")
        return optimizer
