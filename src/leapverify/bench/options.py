"""What a bench is asked to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from leapverify.study.config import ConfigError, StudyConfig
from leapverify.study.settings import with_settings


@dataclass(frozen=True)
class BenchOptions:
    """Everything that decides the rows of a bench, beside the study."""

    labels: Mapping[str, str]
    """Name in the records -> name in the catalogue."""
    horizons: tuple[int, ...]
    """K, steps."""
    persist_every: int = 1
    """Persistence is measured at every so many-th checkpoint."""

    def __post_init__(self) -> None:
        if self.persist_every < 1:
            raise ConfigError(
                f"--persist-every {self.persist_every} counts no checkpoints: give 1 for all, 2 for every second"
            )

    @property
    def keys(self) -> set[tuple[str, int]]:
        """The predictor x K of every checkpoint."""
        return {(label, horizon) for label in self.labels for horizon in self.horizons}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, of which `from_dict` makes the same options."""
        # Pairs, because their order is that of the rows.
        return {
            "labels": [[*pair] for pair in self.labels.items()],
            "horizons": list(self.horizons),
            "persist_every": self.persist_every,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The options that `to_dict` described."""
        return cls(dict(values["labels"]), tuple(values["horizons"]), values["persist_every"])


def configured(config: StudyConfig, options: BenchOptions) -> StudyConfig:
    """The study's configuration, its switches put in, with the predictors and horizons of the bench.

    `momentum` has one scale: the search for the best of several on the verifier is an artefact, not a predictor.
    """
    changes: dict[str, Any] = {
        "sweep.predictors": tuple(options.labels.values()),
        "sweep.horizons": options.horizons,
        "sweep.momentum_scales": (1.0,),
    }
    return with_settings(config, changes)


def chosen_seeds(config: StudyConfig, asked: Sequence[int] | None) -> tuple[int, ...]:
    """The seeds that are benched.

    Raises:
        ConfigError: one that the study does not have.
    """
    for seed in asked or ():
        if seed not in config.seeds:
            raise ConfigError(f"--seeds names {seed}, which is not in the study: it has {_listed(config.seeds)}")
    return tuple(asked) if asked else config.seeds


def task_of(config: StudyConfig) -> str:
    """pretrain, finetune or lora: what the study trains."""
    if config.tuning.lora_rank is not None:
        return "lora"
    return "pretrain" if config.tuning.start is None and config.model.pretrained is None else "finetune"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
