"""Which predictors are benched, and under which names their rows stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leapverify.predict import names, predictor
from leapverify.storage import sha256_of
from leapverify.study.config import ConfigError

NINO_FILES = {"nino-mlp": "nino_mlp.pt", "nino": "nino_no_posw.pt"}
"""The published checkpoint of each, as it is called in the folder that `--nino` names."""


@dataclass(frozen=True)
class Choice:
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


def choose(asked: Sequence[str] | None, nino: Path | None) -> Choice:
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
    return Choice(_labels(found), left_out)


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
        return " ".join(str(error).split())
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
