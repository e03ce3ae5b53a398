"""The task on which nothing can be gained: classes drawn without a look at the features.

A network with one hidden layer gives 8 logits that start at 0, which is the best that can be done: the loss of every
row is ln 8, and any step away from there makes the expected loss larger. Training is a random walk around it. Leaps,
averages and decays can at most undo some of its harm; the policy `auto` must find out that there is nothing to be
had, and lose no more than it may spend on finding out. There is nothing to tune either: of any grid the smallest rate
would be the best one.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from leapverify.race.config import Length
from leapverify.race.tasks.task import Material, Task

FEATURES = 32
HIDDEN = 128
CLASSES = 8
ROWS = 2048
"""Of a step."""
HELDOUT_ROWS = 32
"""Of a held-out batch, and of the probes."""
VAL_ROWS = 2048
"""Of the reported set."""

PARTS = ("train", "heldout", "val", "probes")

USUAL = {"adamw": 1e-3, "sgd": 1e-2}

Table = tuple[Float32[Tensor, "rows features"], Int64[Tensor, " rows"]]


def row_losses(model: nn.Module, rows: Table) -> Float32[Tensor, " rows"]:
    """Negative log-likelihood of every row's class, nats."""
    features, classes = rows
    return F.cross_entropy(model(features), classes, reduction="none")


def noise_task(length: Length, device: str) -> Task:
    """The noise task."""
    return Task(
        name="noise",
        **length.model_dump(),
        schedule="constant",
        optimizers=tuple(USUAL),
        rates=("usual",),
        usual=USUAL,
        grids={name: (rate,) for name, rate in USUAL.items()},
        make=partial(_material, device=device),
    )


def _material(seed: int, _folder: Path, device: str) -> Material:
    heldout = _chance(seed, "heldout")
    reported = _rows(VAL_ROWS, _chance(seed, "val"), device)
    return Material(
        model=_model(seed).to(device),
        batch=lambda step: _rows(ROWS, _chance(seed, "train", step), device),
        loss=lambda model, rows: row_losses(model, rows).mean(),
        losses=row_losses,
        heldout=lambda: _rows(HELDOUT_ROWS, heldout, device),
        heldout_size=None,
        val=lambda: [reported],
        probes=_rows(HELDOUT_ROWS, _chance(seed, "probes"), device)[0],
        step_positions=ROWS,
    )


def _model(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))
    for parameter in model[-1].parameters():
        nn.init.zeros_(parameter)
    return model


def _chance(seed: int, part: str, step: int = 0) -> np.random.Generator:
    # NumPy's, because torch's generator on a CPU reads 32 bits of its seed: too few for a seed, a part and a step.
    return np.random.Generator(np.random.PCG64([seed, PARTS.index(part), step]))


def _rows(count: int, chance: np.random.Generator, device: str) -> Table:
    features = chance.standard_normal((count, FEATURES), dtype=np.float32)
    classes = chance.integers(CLASSES, size=count)
    return torch.from_numpy(features).to(device), torch.from_numpy(classes).to(device)
