"""A run folder as the report sees it: records, configuration and environment, and nothing else."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from leapverify.analysis.over_seeds import OverSeeds, summarise
from leapverify.analysis.vocabulary import REGIMES
from leapverify.errors import Damaged
from leapverify.io import records
from leapverify.io.records import CascadeLink, Checkpoint, LossPoint, Prediction, RacePoint, RaceRun, SeedMeasure
from leapverify.io.storage import read_json, read_marked
from leapverify.io.untrusted import limits
from leapverify.io.untrusted.paths import require_inside
from leapverify.io.untrusted.text import read_bounded
from leapverify.io.yaml_file import as_written, read_yaml

_SAME = "run the same study command again"
_LADDER = "delete both and give the study command with --ladder again"

Row = TypeVar("Row", Checkpoint, LossPoint, Prediction, CascadeLink, SeedMeasure, RacePoint)


@dataclass(frozen=True)
class _Folder:
    """What every run folder says of itself."""

    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]

    def setting(self, key: str, default: Any = None) -> Any:
        """The configuration's value under a dotted key, or the default where it is absent."""
        return lookup(self.config, key, default)


@dataclass(frozen=True)
class RaceRecords(_Folder):
    """The records of one race, which lies in its run folder as race/."""

    targets: Mapping[str, Any]
    """The losses stated before any seed was raced, as recorded."""
    runs: Sequence[RaceRun]
    points: Sequence[RacePoint]
    notes: Sequence[str] = ()
    """What the race itself found worth saying beside its numbers."""

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were raced, ascending; those of tuning are others."""
        return tuple(sorted({row.seed for row in self.runs if row.stage == "race"}))


@dataclass(frozen=True)
class Run(_Folder):
    """The records of one study."""

    checkpoints: Sequence[Checkpoint]
    curve: Sequence[LossPoint]
    predictions: Sequence[Prediction]
    cascades: Sequence[CascadeLink]
    measures: Sequence[SeedMeasure]
    ladder: Sequence[Mapping[str, str]] = ()
    """The rows of tables/ladder.csv, where the study ran the ladder of switches."""
    cut_points: Mapping[str, Any] = field(default_factory=dict)
    """The thresholds that the study used, from thresholds.json."""
    race: RaceRecords | None = None
    """The race in the same folder, where there is one."""

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that have checkpoints, ascending."""
        return tuple(sorted({row.seed for row in self.checkpoints}))

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """The steps at which any seed has a checkpoint, ascending."""
        return tuple(sorted({row.step for row in self.checkpoints}))

    @cached_property
    def of_seed(self) -> Mapping[int, Sequence[Checkpoint]]:
        """Each seed's checkpoints, by step."""
        ordered = sorted(self.checkpoints, key=lambda row: row.step)
        return {seed: [row for row in ordered if row.seed == seed] for seed in self.seeds}

    @cached_property
    def predictors(self) -> tuple[str, ...]:
        """The predictors in the order in which the study lists them, others after."""
        found = {row.predictor: None for row in self.predictions}
        listed = [name for name in self.setting("sweep.predictors", ()) if name in found]
        return tuple(dict.fromkeys([*listed, *found]))

    @cached_property
    def horizons(self) -> tuple[int, ...]:
        """The horizons K that were swept, ascending, steps."""
        return tuple(sorted({row.horizon for row in self.predictions}))

    @cached_property
    def swept_regimes(self) -> tuple[str, ...]:
        """The regimes from which predictions were made, chaotic first."""
        found = {row.regime for row in self.predictions}
        return tuple(regime for regime in REGIMES if regime in found)

    @cached_property
    def thresholds(self) -> tuple[float, float] | None:
        """(tau_low, tau_high), or None where the cut points are not two constant similarities."""
        kind, low, high = (self.cut_points.get(key) for key in ("method", "low", "high"))
        if kind in ("paper", "fixed", "percentile") and isinstance(low, float) and isinstance(high, float):
            return low, high
        return None

    @cached_property
    def final_loss(self) -> OverSeeds:
        """The validation loss at each seed's last checkpoint."""
        return summarise({seed: rows[-1].val_loss for seed, rows in self.of_seed.items()}, n=len(self.seeds))


def stored_as(run: Run) -> str:
    """In which type the weights were stored, and how they were rounded to it."""
    kind = str(run.setting("training.weights", "float32"))
    return kind if kind == "float32" else f"{kind}, {run.setting('training.rounding', 'nearest')} rounding"


def lookup(tree: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """The value under a dotted key of a nested mapping, or the default."""
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return default
        node = node[part]
    return node


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as dotted keys and texts, for showing."""
    out: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out |= flat(value, f"{name}.")
        elif isinstance(value, list):
            out[name] = ", ".join(str(item) for item in value)
        else:
            out[name] = "" if value is None else str(value)
    return out


def load_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        ValueError: no checkpoints, or a file that is damaged; the message names it.
    """
    require_inside(path)
    checkpoints = records.read(path / "checkpoints.parquet", Checkpoint)
    if not checkpoints:
        raise ValueError(f"{path / 'checkpoints.parquet'} holds no checkpoint: run the study first")
    return Run(
        path=path,
        config=_mapping(path / "config.yaml", needed=True),
        environment=_mapping(path / "environment.json", needed=True),
        checkpoints=checkpoints,
        curve=_rows(path / "curve.parquet", LossPoint),
        predictions=_rows(path / "predictions.parquet", Prediction),
        cascades=_rows(path / "cascades.parquet", CascadeLink),
        measures=_rows(path / "seeds.parquet", SeedMeasure),
        ladder=_ladder(path / "tables" / "ladder.csv"),
        cut_points=_mapping(path / "thresholds.json"),
        race=load_race(path),
    )


def load_race(path: Path) -> RaceRecords | None:
    """Read the race of a run folder; None where it has no race/runs.parquet.

    Raises:
        ValueError: no runs of the race itself, or a file that is damaged; the message names it.
    """
    folder = path / "race"
    if not (folder / "runs.parquet").is_file():
        return None
    require_inside(path)
    runs = records.read(folder / "runs.parquet", RaceRun)
    if not any(row.stage == "race" for row in runs):
        raise ValueError(f"{folder / 'runs.parquet'} holds no run of a race: give the race command again")
    return RaceRecords(
        path=path,
        config=_mapping(folder / "config.yaml"),
        environment=_mapping(folder / "environment.json"),
        targets=_mapping(folder / "targets.json"),
        runs=runs,
        points=_rows(folder / "curve.parquet", RacePoint),
        notes=_notes(folder / "notes.json"),
    )


def _rows(path: Path, record: type[Row]) -> list[Row]:
    # A study without a sweep or cascades writes no such file; the tables then say so.
    return records.read(path, record) if path.is_file() else []


def _ladder(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    if path.with_suffix(".json").is_file():  # earlier versions wrote no mark
        content, _ = read_marked(path, _LADDER, limits.TABLE_BYTES)
    else:
        content = _bounded(path)
    with as_written(path, _LADDER):
        try:
            rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
        except csv.Error as error:
            raise ValueError(str(error)) from error
        if not all(isinstance(value, str) for row in rows for value in row.values()):
            raise ValueError("a row has more or fewer fields than the heading")
    return rows


def _bounded(path: Path) -> bytes:
    try:
        return read_bounded(path, limits.TABLE_BYTES)
    except (OSError, ValueError) as error:
        raise Damaged(f"{path} is damaged: {error}; {_LADDER}") from error


def _notes(path: Path) -> list[str]:
    found = read_json(path) if path.is_file() else []
    found = found.get("notes") if isinstance(found, dict) else found  # a bare list in earlier versions
    return [str(note) for note in found] if isinstance(found, list) else []


def _mapping(path: Path, *, needed: bool = False) -> Mapping[str, Any]:
    if not path.is_file():
        if not needed:
            return {}
        raise ValueError(f"{path} is missing: name a run folder that a study has written")
    tree = read_json(path) if path.suffix == ".json" else read_yaml(path, _SAME)
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds no mapping: {_SAME}")
    return tree
