"""What follows from a study's configuration, worked out once, where a task begins.

A `StudyConfig` is what the user asked for and what config.yaml holds. `Resolved.of(config)` is what the work runs by:
the settings of the switches put in, data types, what the predictors need, what is kept, and the steps at which
something happens. Code behind that door reads them here and works none of them out again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from leapverify.config.overrides import with_settings
from leapverify.config.retention import Retention
from leapverify.config.run import DataConfig, TrainingConfig, TuningConfig
from leapverify.config.study import (
    SWITCH_SETTINGS,
    CascadeConfig,
    ObserveConfig,
    RegimeConfig,
    SnapshotConfig,
    StudyConfig,
    SweepConfig,
    Switches,
    VerifyConfig,
)
from leapverify.observe import ProbeSet, paper_probes
from leapverify.predict import STRAIGHTNESS, Needs, predictor
from leapverify.train.models import ModelSpec

SAMPLED = 1 << 18
"""Elements by which the survival of updates is judged: a share then errs by 0.1 % at most."""


@dataclass(frozen=True)
class Resolved:
    """A study's settings with the switches applied, and everything that follows from them alone."""

    settings: StudyConfig
    """The configuration with the settings of its switches put in, and the switches themselves off."""
    needs: Needs
    """What the predictors of sweep and cascades need, all together; `snapshots` is the length of the history."""
    weights_dtype: torch.dtype
    """Of stored weights, gradients and moments."""
    history_dtype: torch.dtype
    """Of the history's snapshots: that of the weights unless `sweep.history` asks for another."""
    checkpoint_steps: tuple[int, ...]
    """The steps at which a checkpoint is taken, ascending."""
    curve_steps: frozenset[int]
    """The steps at which the held-out loss is measured."""
    retention: Retention
    """Which snapshots and states are written, and which of them stay."""

    @classmethod
    def of(cls, config: StudyConfig) -> Self:
        """Work everything out.

        Args:
            config: as the user asked for it; other settings make another `Resolved`, from `with_settings` of
                `resolved.settings`.

        >>> from leapverify.config.presets import preset
        >>> resolved = Resolved.of(preset("tiny"))
        >>> resolved.history_dtype, resolved.checkpoint_steps[:3]
        (torch.float32, (50, 100, 150))
        """
        settings = with_switches(config)
        needs = _needs(settings)
        weights: torch.dtype = getattr(torch, settings.training.weights)
        kind = settings.sweep.history
        return cls(
            settings=settings,
            needs=needs,
            weights_dtype=weights,
            history_dtype=weights if kind == "auto" else getattr(torch, kind),
            checkpoint_steps=settings.checkpoint_steps,
            curve_steps=_curve_steps(settings),
            retention=Retention(settings.snapshots.weights, settings.snapshots.every, needs.snapshots),
        )

    @property
    def preset(self) -> str:
        """The preset's name."""
        return self.settings.preset

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the study."""
        return self.settings.seeds

    @property
    def data(self) -> DataConfig:
        """Text, tokens and the form of a sequence."""
        return self.settings.data

    @property
    def model(self) -> ModelSpec:
        """The model's architecture."""
        return self.settings.model

    @property
    def training(self) -> TrainingConfig:
        """The reference run."""
        return self.settings.training

    @property
    def tuning(self) -> TuningConfig:
        """What a fine-tuning or LoRA run begins with."""
        return self.settings.tuning

    @property
    def observe(self) -> ObserveConfig:
        """Fingerprints and their similarity."""
        return self.settings.observe

    @property
    def regimes(self) -> RegimeConfig:
        """How similarities become labels."""
        return self.settings.regimes

    @property
    def verify(self) -> VerifyConfig:
        """Held-out measuring."""
        return self.settings.verify

    @property
    def sweep(self) -> SweepConfig:
        """What is predicted at every checkpoint."""
        return self.settings.sweep

    @property
    def cascade(self) -> CascadeConfig:
        """Predictions upon predictions."""
        return self.settings.cascade

    @property
    def snapshots(self) -> SnapshotConfig:
        """What stays on disk."""
        return self.settings.snapshots

    @cached_property
    def probes(self) -> ProbeSet:
        """The configured probes, read when first asked for.

        Raises:
            ValueError: their file cannot be read.
        """
        return ProbeSet.from_file(Path(self.observe.probes)) if self.observe.probes else paper_probes()

    def autocast(self, device: torch.device) -> torch.dtype | None:
        """The type in which passes run under autocast; None: in that of the weights.

        bfloat16 where it is asked for, and on a GPU unless float32 is asked for; None over bfloat16 weights.
        """
        if self.training.weights == "bfloat16":
            return None
        precision = self.training.precision
        wanted = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
        return torch.bfloat16 if wanted else None

    def moves(self, model: nn.Module) -> Callable[[str], bool] | None:
        """Keeps the names of the parameters that predictions move; None where they move all."""
        return _inner(model) if self.sweep.moved == "no-norms-embeddings" else None


def with_switches(config: StudyConfig) -> StudyConfig:
    """The configuration with the settings of its switches put in, and the switches off."""
    changed: dict[str, Any] = {}
    for name, on in config.switches:
        if on:
            changed |= SWITCH_SETTINGS[name]
    return with_settings(config, changed).model_copy(update={"switches": Switches()}) if changed else config


def _needs(config: StudyConfig) -> Needs:
    """What straightness and the predictors of sweep and cascades need, all together."""
    swept = [predictor(name).needs for name in config.sweep.predictors]
    cascade = config.cascade
    linked = [predictor(name).needs.on_predictions for name in {*cascade.predictors, *cascade.trained_predictors}]
    return Needs.union([STRAIGHTNESS, *swept, *linked])


def _curve_steps(config: StudyConfig) -> frozenset[int]:
    """The steps at which the held-out loss is measured: checkpoints, every t + K, the resolution asked for, and the
    steps that links of cascades are compared with."""
    total, every, cascade = config.training.steps, config.sweep.curve_every_steps, config.cascade
    shapes = cascade.shapes if cascade.kinds else ()
    # A trained link claims twice the steps that it spends.
    links = {link * length * claim for depth, length in shapes for link in range(1, depth + 1) for claim in (1, 2)}
    ahead = {0, *config.sweep.horizons, *links}
    wanted = {start + steps for start in config.checkpoint_steps for steps in ahead}
    if every:
        wanted |= set(range(every, total + 1, every))
    return frozenset(step for step in wanted if step <= total)


def _inner(model: nn.Module) -> Callable[[str], bool]:
    """Keeps the names of parameters that belong neither to a norm nor to an embedding."""
    outer = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, nn.Embedding) or "Norm" in type(module).__name__
        for name, _ in module.named_parameters(recurse=False)
    }
    return lambda name: name not in outer
