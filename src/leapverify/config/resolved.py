"""What follows from a configuration alone: types, lengths, probes, and which parameters move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leapverify.config.overrides import with_settings
from leapverify.config.study import SWITCH_SETTINGS, CascadeConfig, StudyConfig, SweepConfig
from leapverify.observe import ProbeSet, paper_probes
from leapverify.predict import STRAIGHTNESS, Needs, predictor

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
    return needs_of(config).snapshots


def needs_of(config: StudyConfig) -> Needs:
    """What straightness and the predictors of sweep and cascades need, all together."""
    swept = [predictor(name).needs for name in config.sweep.predictors]
    cascade = config.cascade
    linked = [predictor(name).needs.on_predictions for name in {*cascade.predictors, *cascade.trained_predictors}]
    return Needs.union([STRAIGHTNESS, *swept, *linked])


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


def curve_steps(total_steps: int, interval: int, settings: SweepConfig, cascade: CascadeConfig) -> frozenset[int]:
    """The steps at which the held-out loss is measured: checkpoints, every t + K, the resolution asked for, and the
    steps that links of cascades are compared with."""
    starts = range(interval, total_steps + 1, interval)
    shapes = cascade.shapes if cascade.kinds else ()
    # A trained link claims twice the steps that it spends.
    links = {link * length * claim for depth, length in shapes for link in range(1, depth + 1) for claim in (1, 2)}
    ahead = {0, *settings.horizons, *links}
    wanted = {start + steps for start in starts for steps in ahead}
    if settings.curve_every_steps:
        wanted |= set(range(settings.curve_every_steps, total_steps + 1, settings.curve_every_steps))
    return frozenset(step for step in wanted if step <= total_steps)


def effective(config: StudyConfig) -> StudyConfig:
    """The configuration with the settings of its switches put in."""
    settings: dict[str, Any] = {}
    for name, on in config.switches:
        if on:
            settings.update(SWITCH_SETTINGS[name])
    return with_settings(config, settings) if settings else config
