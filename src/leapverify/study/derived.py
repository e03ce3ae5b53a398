"""What follows from a configuration alone: types, lengths, probes, and which parameters move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from leapverify.observe import ProbeSet, paper_probes
from leapverify.predict import predictor
from leapverify.study.config import StudyConfig

SAMPLED = 1 << 18
"""Elements by which the survival of updates is judged: a share then errs by 0.1 % at most."""


def open_probes(config: StudyConfig) -> ProbeSet:
    """The configured probes."""
    return ProbeSet.from_file(Path(config.observe.probes)) if config.observe.probes else paper_probes()


def weights_type(config: StudyConfig) -> torch.dtype:
    """How weights, gradients and moments are stored."""
    found: torch.dtype = getattr(torch, config.training.weights)
    return found


def history_type(config: StudyConfig) -> torch.dtype:
    """How the history's snapshots are stored; an exact copy of the weights unless another type is asked for."""
    kind = config.sweep.history
    found: torch.dtype = weights_type(config) if kind == "auto" else getattr(torch, kind)
    return found


def autocast_of(config: StudyConfig, device: torch.device) -> torch.dtype | None:
    """bfloat16 where it is asked for, or on a GPU unless float32 is asked for; None over weights that are bfloat16."""
    if config.training.weights == "bfloat16":
        return None
    precision = config.training.precision
    wanted = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.bfloat16 if wanted else None


def history_length(config: StudyConfig) -> int:
    """Snapshots that the predictors, the cascades and straightness need."""
    names = {*config.sweep.predictors, *config.cascade.predictors, *config.cascade.trained_predictors}
    return max([3, *(predictor(name).needs.reach for name in names)])


def moves(config: StudyConfig, model: nn.Module) -> Callable[[str], bool] | None:
    """Keeps the names of the parameters that predictions move; None where they move all."""
    return inner(model) if config.sweep.moved == "no-norms-embeddings" else None


def inner(model: nn.Module) -> Callable[[str], bool]:
    """Keeps the names of parameters that belong neither to a norm nor to an embedding."""
    outer = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, nn.Embedding) or "Norm" in type(module).__name__
        for name, _ in module.named_parameters(recurse=False)
    }
    return lambda name: name not in outer
