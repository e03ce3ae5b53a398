"""The run folder: where everything of a study lies, and how a study is read again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from leapverify import records
from leapverify.content import as_written
from leapverify.records import CascadeLink, Checkpoint, LossPoint, Prediction, SeedMeasure
from leapverify.storage import load_tensors, remove, save_tensors
from leapverify.study.config import StudyConfig
from leapverify.study.settings import load_config

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


def has_state(number: int, every: int | None) -> bool:
    """Whether a state is written at checkpoint `number`, counted from 1: at each `every`-th one, never for None."""
    return every is not None and number % every == 0


def in_a_ring(number: int, every: int | None, length: int) -> bool:
    """Whether the snapshot of checkpoint `number` belongs to the history of a state, that of its own or a later one."""
    return every is not None and -number % every < length


def needed_to_resume(steps: Sequence[int], length: int, every: int | None = 1) -> tuple[set[int], set[int]]:
    """The checkpoints whose snapshots, and those whose optimizer states, a resume may need.

    Kept are the last two states, and one generation back a state whose history shares no snapshot with theirs: a
    damaged snapshot then costs a few checkpoints, not the run. Where states stand so far apart that the last two share
    none, those two are enough.

    Args:
        steps: the checkpoints so far, ascending.
        length: snapshots that a history holds.
        every: checkpoints from one state to the next; None: there is none.
    """
    if every is None:
        return set(), set()
    numbers = range(1, len(steps) + 1)
    states = [number for number in numbers if has_state(number, every)]
    kept = set(states[-2:])
    if every < length and len(states) > 1:
        stride = -(-(length + 1) // every) * every
        anchors = [number for number in states if number % stride == 0]
        apart = [number for number in anchors if number <= states[-2] - length]
        kept |= {number for number in anchors if number >= (apart[-1] if apart else 1)}
    snapshots = {number for state in kept for number in range(max(1, state - length + 1), state + 1)}
    # Those of the state to come.
    snapshots |= set(range(max(1, len(steps) // every * every + every - length + 1), len(steps) + 1))
    return {steps[number - 1] for number in snapshots}, {steps[number - 1] for number in kept}


def with_stop(
    snapshots: set[int], states: set[int], steps: Sequence[int], length: int, stop: int | None
) -> tuple[set[int], set[int]]:
    """`needed_to_resume` and the state that was written where a run was told to stop, until there is a newer one.

    Args:
        snapshots, states: from `needed_to_resume`.
        steps, length: as there.
        stop: the step of that state; None: there is none.
    """
    if stop is None or stop not in steps or stop < max(states, default=0):
        return snapshots, states
    ring = steps[max(0, steps.index(stop) + 1 - length) : steps.index(stop) + 1]
    return snapshots | set(ring), states | {stop}


def keep_only(folder: Path, steps: Collection[int]) -> None:
    """Delete the tensors of every other step; the mark goes first.

    Raises:
        NotWritten: the folder cannot be written.
    """
    from leapverify.train.shard_folder import MARK, drop_parts

    wanted = {f"step-{step:06d}" for step in steps}
    for mark in folder.glob("step-*.json"):
        if mark.stem not in wanted:
            remove(mark)
            remove(mark.with_suffix(".safetensors"))
    for parts in [each.parent for each in folder.glob(f"step-*/{MARK}") if each.parent.name not in wanted]:
        drop_parts(parts)
