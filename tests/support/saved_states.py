"""States and snapshots as a study writes them, in one call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leapverify.io.storage import save_tensors
from leapverify.train.state import snapshot_path, state_tensors


def save_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, step: int, weights: bool = True, **about: Any
) -> None:
    """All that an exact resume needs."""
    save_tensors(path, state_tensors(model, optimizer, weights=weights), step=step, **about)


def save_snapshot(folder: Path, step: int, tensors: Mapping[str, Tensor], **about: Any) -> Path:
    """The weights of a step."""
    path = snapshot_path(folder, step)
    save_tensors(path, tensors, step=step, **about)
    return path
