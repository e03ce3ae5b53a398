"""The run folder: where everything of a study lies, and how a study is read again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from leapverify.config.overrides import load_config
from leapverify.config.study import StudyConfig
from leapverify.io import records
from leapverify.io.records import CascadeLink, Checkpoint, LossPoint, Prediction, SeedMeasure
from leapverify.io.storage import load_tensors, remove, save_tensors
from leapverify.io.yaml_file import as_written

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINTS = "checkpoints.parquet"
CURVE = "curve.parquet"
PREDICTIONS = "predictions.parquet"
CASCADES = "cascades.parquet"
SEEDS = "seeds.parquet"
DONE = "done.json"


@dataclass
class Rows:
    """The rows of one seed, growing checkpoint by checkpoint."""

    checkpoints: list[Checkpoint]
    curve: list[LossPoint]
    predictions: list[Prediction]
    cascades: list[CascadeLink]

    @classmethod
    def empty(cls) -> Rows:
        """No rows yet."""
        return cls([], [], [], [])

    def copy(self) -> Rows:
        """The rows so far, which do not grow."""
        return Rows(list(self.checkpoints), list(self.curve), list(self.predictions), list(self.cascades))

    def until(self, step: int) -> Rows:
        """The rows up to a step: what was written after the last whole state is made anew."""
        return Rows(
            [row for row in self.checkpoints if row.step <= step],
            [row for row in self.curve if row.step <= step],
            [row for row in self.predictions if row.step <= step],
            [row for row in self.cascades if row.step <= step],
        )


class SeedFolder:
    """The files of one seed."""

    def __init__(self, run: Path, seed: int) -> None:
        self.path = run / f"seed-{seed}"
        self.seed = seed

    @property
    def snapshots(self) -> Path:
        """Folder of the weights."""
        return self.path / "snapshots"

    @property
    def states(self) -> Path:
        """Folder of Adam's moments and the random streams."""
        return self.path / "optimizer"

    @property
    def remembered(self) -> Path:
        """Folder of what the history keeps beside its snapshots."""
        return self.path / "remembered"

    @property
    def done(self) -> bool:
        """Whether this seed has finished."""
        return (self.path / DONE).is_file()

    def read_rows(self) -> Rows:
        """The rows written so far; none before the first checkpoint.

        Raises:
            Damaged: a file is missing or altered.
        """
        folder = self.path / "records"
        if not self.done and not (folder / CHECKPOINTS).is_file():
            return Rows.empty()
        return Rows(
            records.read(folder / CHECKPOINTS, Checkpoint),
            records.read(folder / CURVE, LossPoint),
            records.read(folder / PREDICTIONS, Prediction),
            records.read(folder / CASCADES, CascadeLink),
        )

    def write_rows(self, rows: Rows) -> None:
        """Write all rows; the checkpoints come last, so that they never name rows that are not there."""
        folder = self.path / "records"
        records.write(folder / CURVE, LossPoint, rows.curve)
        records.write(folder / PREDICTIONS, Prediction, rows.predictions)
        records.write(folder / CASCADES, CascadeLink, rows.cascades)
        records.write(folder / CHECKPOINTS, Checkpoint, rows.checkpoints)

    def write_fingerprints(self, fingerprints: dict[int, Tensor], identity: str) -> None:
        """Write the fingerprints of all checkpoints so far, keys `step-000050`, each (probes, d) float32."""
        tensors = {f"step-{step:06d}": value for step, value in fingerprints.items()}
        save_tensors(self.path / "fingerprints.safetensors", tensors, probes=identity)

    def read_fingerprints(self) -> dict[int, Tensor]:
        """Step -> fingerprint, step 0 being the untrained model."""
        tensors, _ = load_tensors(self.path / "fingerprints.safetensors")
        with as_written(self.path / "fingerprints.safetensors", "delete both"):
            return {int(name.removeprefix("step-")): value for name, value in tensors.items()}


class Study:
    """A study read from its run folder.

    Raises:
        ValueError: the folder holds no study, or a record is missing or damaged (when it is asked for).
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config: StudyConfig = load_config(self.path / "config.yaml")

    def seed(self, seed: int) -> SeedFolder:
        """The files of one seed."""
        return SeedFolder(self.path, seed)

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """One row per seed and checkpoint."""
        return records.read(self.path / CHECKPOINTS, Checkpoint)

    @cached_property
    def curve(self) -> list[LossPoint]:
        """The held-out loss wherever it was measured."""
        return records.read(self.path / CURVE, LossPoint)

    @cached_property
    def predictions(self) -> list[Prediction]:
        """One row per seed, checkpoint, predictor and horizon."""
        return records.read(self.path / PREDICTIONS, Prediction)

    @cached_property
    def cascades(self) -> list[CascadeLink]:
        """One row per link."""
        return records.read(self.path / CASCADES, CascadeLink)

    @cached_property
    def seeds(self) -> list[SeedMeasure]:
        """What compares the seeds."""
        return records.read(self.path / SEEDS, SeedMeasure)

    def fingerprints(self, seed: int) -> dict[int, Tensor]:
        """Step -> (probes, d) fingerprint of one seed; step 0 is the untrained model."""
        return self.seed(seed).read_fingerprints()

    def weights(self, seed: int, step: int) -> dict[str, Tensor]:
        """The weights of one kept checkpoint, by the names of `named_parameters()`."""
        from leapverify.train.state import load_snapshot

        return load_snapshot(self.seed(seed).snapshots, step)

    @property
    def report(self) -> Path:
        """The report's page."""
        return self.path / "report.html"


def load_study(path: Path | str) -> Study:
    """Open a finished run folder.

    Raises:
        ValueError: the folder holds no study.
    """
    return Study(path)


def keep_only(folder: Path, steps: Collection[int]) -> None:
    """Delete the tensors of every other step; the mark goes first.

    Raises:
        NotWritten: the folder cannot be written.
    """
    from leapverify.train.sharded_folder import MARK, drop_parts

    wanted = {f"step-{step:06d}" for step in steps}
    for mark in folder.glob("step-*.json"):
        if mark.stem not in wanted:
            remove(mark)
            remove(mark.with_suffix(".safetensors"))
    for parts in [each.parent for each in folder.glob(f"step-*/{MARK}") if each.parent.name not in wanted]:
        drop_parts(parts)
