"""The task on which leaping must win: least squares by SGD with one sharp direction and many slow ones.

Features are x = mu 1 + D z with mu = 0.95, D diagonal from 0.014 to 0.043 and z standard normal: nobody has centred
them. Targets are x . w* plus noise; the loss of a row is half its squared error. Seen from the weights, the common mean
is one direction of curvature mu^2 d = 58, and what tells the features apart lies in directions of curvature D^2, four
to five orders of magnitude below. Every step goes over all rows, so nothing is random after the start.

SGD with momentum beta diverges above eta = 2 (1 + beta)/58 = 0.066, whatever the slow directions need; the grid has a
rate at 95 % of that edge. There the slow weights move by eta/(1 - beta) times their gradient, which hardly changes
over hundreds of steps: their trajectory is nearly a line, and a line can be extrapolated. A leap does here what a
larger rate would do, if the sharp direction let it.

So does whatever else gets around that direction, and better: with a momentum of 0.99 the loss that SGD with 0.9 reaches
in 1800 steps takes 250, with centred features and a larger rate 25. AdamW at its own tuned rate takes 300 to 500;
it is raced too, but it swings along the sharp direction, so its trajectory is no line and nothing is promised there.
The task shows what leaping can do where a rate is held down from elsewhere, not how least squares should be solved.

The baseline's rate is constant after its warm-up: without noise a decay gains nothing, and a run that leaps would be
praised for undoing one. The same schedule made shorter is then the baseline, stopped earlier.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from leapverify.race.config import Length
from leapverify.race.tasks.task import Material, Task

FEATURES = 64
ROWS = 16384
"""Of the training set, all of them in every step: enough for a step's arithmetic to outweigh its bookkeeping."""
VAL_ROWS = 2048
"""Of the reported set."""
HELDOUT_ROWS = 32
"""Of a held-out batch."""

MEAN = 0.95
"""mu, of every feature."""
SPREAD = 0.025
"""Geometric mean of the features' standard deviations."""
RANGE = 3.0
"""Largest over smallest of them."""
DISTANCE = 7.0
"""Of every initial weight from the true one, upwards for half of them."""
NOISE = 0.25
"""Of the targets."""

USUAL = {"sgd": 0.03125, "adamw": 0.125}
GRIDS = {
    "sgd": (0.0078125, 0.015625, 0.03125, 0.0625, 0.125),
    "adamw": (0.03125, 0.0625, 0.125, 0.25, 0.5),
}

Table = tuple[Float32[Tensor, "rows features"], Float32[Tensor, " rows"]]


class Linear(nn.Module):
    """A row's features -> its prediction, without bias."""

    def __init__(self, weight: Float32[Tensor, " features"]) -> None:
        super().__init__()
        # Made without weights first: random ones would move the global stream.
        self.head = nn.Linear(len(weight), 1, bias=False, device="meta").to_empty(device="cpu")
        self.head.weight.data.copy_(weight.unsqueeze(0))

    def forward(self, features: Float32[Tensor, "rows features"]) -> Float32[Tensor, "rows 1"]:
        """The predictions."""
        return self.head(features)


def row_losses(model: nn.Module, rows: Table) -> Float32[Tensor, " rows"]:
    """Half the squared error of every row."""
    features, targets = rows
    return 0.5 * (model(features).squeeze(1) - targets).square()


def convex_task(length: Length, device: str) -> Task:
    """The convex task."""
    return Task(
        name="convex",
        **length.model_dump(),
        schedule="constant",
        optimizers=tuple(GRIDS),
        rates=("tuned",),
        usual=USUAL,
        grids=GRIDS,
        make=partial(_material, device=device),
    )


def _material(seed: int, _folder: Path, device: str) -> Material:
    chance = torch.Generator().manual_seed(seed)
    truth = torch.randn(FEATURES, generator=chance)
    start = truth + _displacement(chance)
    train, val = (_rows(rows, truth, chance, device) for rows in (ROWS, VAL_ROWS))
    probes = _rows(HELDOUT_ROWS, truth, chance, device)[0]
    return Material(
        model=Linear(start).to(device),
        batch=lambda _: train,
        loss=lambda model, rows: row_losses(model, rows).mean(),
        losses=row_losses,
        heldout=lambda: _rows(HELDOUT_ROWS, truth, chance, device),
        heldout_size=None,
        val=lambda: [val],
        probes=probes,
        step_positions=ROWS,
        layer="head",
    )


def _displacement(chance: torch.Generator) -> Float32[Tensor, " features"]:
    """Errors of the initial weights, which sum to 0: nothing is wrong along the sharp direction at the start."""
    signs = 1.0 - 2.0 * (torch.randperm(FEATURES, generator=chance) % 2)
    return DISTANCE * signs


def _rows(count: int, truth: Tensor, chance: torch.Generator, device: str) -> Table:
    deviations = SPREAD * torch.logspace(-0.5, 0.5, FEATURES, base=RANGE)
    features = MEAN + deviations * torch.randn(count, FEATURES, generator=chance)
    targets = features @ truth + NOISE * torch.randn(count, generator=chance)
    return features.to(device), targets.to(device)
