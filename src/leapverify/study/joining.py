"""What the seeds recorded, put together: whole seeds, joined records, compared seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leapverify import records
from leapverify.analysis.seeds import compare_seeds
from leapverify.records import CascadeLink, Checkpoint, LossPoint, Prediction, SeedMeasure
from leapverify.storage import Damaged, read_json
from leapverify.study import cascade, sweep
from leapverify.study.folder import CASCADES, CHECKPOINTS, CURVE, DONE, PREDICTIONS, SEEDS, Rows, SeedFolder
from leapverify.study.progress import Progress, Watcher


def join_records(out: Path, seeds: Sequence[int]) -> None:
    """Join the seeds' records, fill in what only their future tells, and compare the seeds."""
    parts = [SeedFolder(out, seed).read_rows() for seed in seeds]
    checkpoints = [row for part in parts for row in part.checkpoints]
    records.write(out / CHECKPOINTS, Checkpoint, checkpoints)
    records.write(out / CURVE, LossPoint, [row for part in parts for row in part.curve])
    write_predictions(out, parts)
    links = [row for part in parts for row in cascade.complete(part.cascades, part.curve)]
    records.write(out / CASCADES, CascadeLink, links)
    fingerprints = {
        seed: {step: value.numpy() for step, value in SeedFolder(out, seed).read_fingerprints().items()}
        for seed in seeds
    }
    records.write(out / SEEDS, SeedMeasure, compare_seeds(checkpoints, fingerprints))


def write_predictions(out: Path, parts: Sequence[Rows]) -> None:
    """Write the sweep's rows of all seeds, completed from each seed's own loss curve."""
    rows = [row for part in parts for row in sweep.complete(part.predictions, part.curve)]
    records.write(out / PREDICTIONS, Prediction, rows)


def whole(folder: SeedFolder, steps: int, watcher: Watcher) -> bool:
    """Whether a seed has finished and its records are whole; a damaged one is opened again."""
    if not folder.done:
        return False
    try:
        read_json(folder.path / DONE)
        folder.read_rows()
        folder.read_fingerprints()
    except Damaged as error:
        watcher(Progress(folder.seed, 0, steps, "note", note=str(error)))
        (folder.path / DONE).unlink()
        return False
    watcher(Progress(folder.seed, steps, steps, "done"))
    return True
