"""What a bench is asked to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from leapverify.config.overrides import with_settings
from leapverify.config.resolved import Resolved, with_switches
from leapverify.config.study import StudyConfig
from leapverify.errors import ConfigError
from leapverify.io.storage import sha256_of
from leapverify.predict import names, predictor
from leapverify.runs.failure import in_one_line


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


def configured(config: StudyConfig, options: BenchOptions) -> Resolved:
    """The study's settings, with the predictors and horizons of the bench.

    `momentum` has one scale: the search for the best of several on the verifier is an artefact, not a predictor.
    """
    changes: dict[str, Any] = {
        "sweep.predictors": tuple(options.labels.values()),
        "sweep.horizons": options.horizons,
        "sweep.momentum_scales": (1.0,),
    }
    return Resolved.of(with_settings(with_switches(config), changes))


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


NINO_FILES = {"nino-mlp": "nino_mlp.pt", "nino": "nino_no_posw.pt"}
"""The published checkpoint of each, as it is called in the folder that `--nino` names."""


@dataclass(frozen=True)
class BenchChoice:
    """What is benched."""

    labels: Mapping[str, str]
    """Name in the records -> name in the catalogue. Only those that read a file differ: no record holds a path."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Name -> why it is not benched."""

    @property
    def files(self) -> dict[str, dict[str, str]]:
        """Of each that was told a file: the file's name and sha256, by the name in the records."""
        paths = {label: Path(name.partition(":")[2]) for label, name in self.labels.items() if ":" in name}
        return {label: {"file": path.name, "sha256": sha256_of(path)} for label, path in paths.items()}


def choose(asked: Sequence[str] | None, nino: Path | None) -> BenchChoice:
    """The predictors that are asked for, or the whole catalogue and what other packages have registered.

    Args:
        asked: names as the catalogue takes them, `all` for everything that can be made without being told more (what
            cannot is left out); None: `all`.
        nino: folder of the published NiNo checkpoints; `nino-mlp` and `nino` then read theirs.

    Raises:
        ConfigError: the folder holds no such file, or nothing is left.
        ValueError: a name that is unknown, or one that cannot be made.
    """
    files = _nino_files(nino)
    everything = asked is None or "all" in asked
    left_out = {name: why for name in names() if (why := _refusal(files.get(name, name)))} if everything else {}
    listed = [name for name in names() if name not in left_out] if everything else []
    listed += [name for name in asked or () if name not in ("all", *listed)]
    found = [files.get(name, name) for name in listed]
    for name in found:
        predictor(name)
    return BenchChoice(_labels(found), left_out)


def _nino_files(folder: Path | None) -> dict[str, str]:
    if folder is None:
        return {}
    for name in NINO_FILES.values():
        if not (folder / name).is_file():
            raise ConfigError(
                f"--nino {folder} holds no {name}: name the folder of {' and '.join(NINO_FILES.values())}"
            )
    return {name: f"{name}:{folder / file}" for name, file in NINO_FILES.items()}


def _refusal(name: str) -> str | None:
    """Why a predictor cannot be made from its name alone; None if it can."""
    try:
        predictor(name)
    except ValueError as error:
        return in_one_line(error)
    return None


def _labels(found: Sequence[str]) -> dict[str, str]:
    """The bare name where it is the only one of its kind, otherwise with the file's name."""
    kinds = Counter(name.partition(":")[0] for name in found)
    labels: dict[str, str] = {}
    for name in found:
        kind, _, path = name.partition(":")
        label = kind if kinds[kind] == 1 or not path else f"{kind}:{Path(path).name}"
        if label in labels:
            raise ConfigError(
                f"{name!r} and {labels[label]!r} would both be recorded as {label}: rename one of the files"
            )
        labels[label] = name
    return labels
