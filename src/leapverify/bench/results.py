"""The files of a bench: per-seed parts that grow checkpoint by checkpoint, and what is joined from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leapverify.errors import ConfigError, Damaged
from leapverify.io import records
from leapverify.io.records import Benched, Prediction
from leapverify.io.storage import read_json, write_json
from leapverify.io.yaml_file import as_written
from leapverify.study import sweep
from leapverify.study.folder import Rows

FOLDER = "bench"
ABOUT = "bench.json"
PREDICTIONS = "predictions.parquet"
BENCHED = "benched.parquet"

Key = tuple[int, str, int]
"""Step, predictor, K."""


def key_of(row: Prediction | Benched) -> Key:
    """What tells the rows of one seed apart."""
    return row.step, row.predictor, row.horizon


@dataclass
class BenchRows:
    """The rows of one seed, and how it got to them."""

    predictions: dict[Key, Prediction] = field(default_factory=dict)
    """Without what only the run's future tells."""
    benched: dict[Key, Benched] = field(default_factory=dict)
    seconds: float = 0.0
    repeated: set[int] = field(default_factory=set)
    """Checkpoints that training again reached bit by bit."""
    loaded: set[int] = field(default_factory=set)
    """Checkpoints that it did not reach, or was not asked to: their recorded state was put in."""

    def done(self, step: int) -> set[tuple[str, int]]:
        """The predictor x K of a checkpoint."""
        return {(name, horizon) for at, name, horizon in self.predictions if at == step}

    def add(self, predictions: Iterable[Prediction], benched: Iterable[Benched]) -> None:
        """Take rows in."""
        self.predictions.update((key_of(row), row) for row in predictions)
        self.benched.update((key_of(row), row) for row in benched)


class BenchSeed:
    """The part of one seed."""

    def __init__(self, run: Path, seed: int) -> None:
        self.path = run / FOLDER / f"seed-{seed}"
        self.seed = seed

    def read(self, note: Callable[[str], None] | None = None) -> BenchRows:
        """What has been written so far; nothing where files are missing or damaged, which are then made anew.

        Args:
            note: is told what is damaged.
        """
        try:
            predictions = records.read(self.path / PREDICTIONS, Prediction)
            benched = {key_of(row): row for row in records.read(self.path / BENCHED, Benched)}
            about = read_json(self.path / ABOUT)
            with as_written(self.path / ABOUT, "give the bench again"):
                seconds, repeated, loaded = float(about["seconds"]), set(about["repeated"]), set(about["loaded"])
        except Damaged as error:
            if note is not None and any((self.path / name).exists() for name in (ABOUT, BENCHED, PREDICTIONS)):
                note(f"{error}; this seed is benched again")
            return BenchRows()
        # A writer that was killed between its files leaves rows of one kind alone.
        kept = {key_of(row): row for row in predictions if key_of(row) in benched}
        return BenchRows(
            kept,
            {key: row for key, row in benched.items() if key in kept},
            seconds,
            repeated,
            loaded,
        )

    def write(self, rows: BenchRows) -> None:
        """Write all rows."""
        counts = {"seconds": rows.seconds, "repeated": sorted(rows.repeated), "loaded": sorted(rows.loaded)}
        write_json(self.path / ABOUT, counts)
        records.write(self.path / BENCHED, Benched, rows.benched.values())
        records.write(self.path / PREDICTIONS, Prediction, rows.predictions.values())


def take_folder(run: Path, about: Mapping[str, Any]) -> None:
    """Note what is benched, if it goes with what is there already.

    Raises:
        ConfigError: rows that were made otherwise lie there.
    """
    path = run / FOLDER / ABOUT
    known = any((run / FOLDER).glob(f"seed-*/{PREDICTIONS}"))
    try:
        found = read_json(path)
        with as_written(path, "delete the folder"):
            sha256s = {label: (str(file["sha256"]), str(file["file"])) for label, file in found["files"].items()}
            measured = found["persist_every"]
    except Damaged as error:
        if known:
            raise ConfigError(
                f"{path.parent} holds rows, and {path.name}, which said how they were made, is missing or damaged: "
                "delete the folder"
            ) from error
        found, sha256s, measured = {}, {}, None
    if known and measured != about["persist_every"]:
        raise ConfigError(
            f"{path.parent} measured persistence with --persist-every {measured}, not "
            f"{about['persist_every']}: give that, or delete the folder"
        )
    for label, file in about["files"].items():
        sha256, earlier = sha256s.get(label, (file["sha256"], ""))
        if known and sha256 != file["sha256"]:
            raise ConfigError(
                f"{path.parent} holds rows of {label} from another {earlier}: bench it elsewhere, or delete that folder"
            )
    files = {**found.get("files", {}), **about["files"]}
    write_json(path, {**found, **about, "files": files})


def join(run: Path, seeds: Mapping[int, Rows]) -> bool:
    """Join the parts of all seeds, fill in what only their future tells, and note what was joined.

    Of each seed, a predictor x K is joined once it has a row at every checkpoint.

    Args:
        run: the run folder.
        seeds: what the study recorded of each of its seeds.

    Returns:
        Whether there was anything.
    """
    folder = run / FOLDER
    predictions: list[Prediction] = []
    benched: list[Benched] = []
    counts: dict[str, dict[str, float]] = {}
    for seed, study in seeds.items():
        part = BenchSeed(run, seed).read()
        if keys := _whole(part, [row.step for row in study.checkpoints]):
            predictions += sweep.complete([part.predictions[key] for key in keys], study.curve)
            benched += [part.benched[key] for key in keys]
            walked = {"repeated": len(part.repeated), "loaded": len(part.loaded)}
            counts[str(seed)] = {"seconds": part.seconds, **walked}
    if not counts:
        return False
    records.write(folder / PREDICTIONS, Prediction, predictions)
    records.write(folder / BENCHED, Benched, benched)
    about = read_json(folder / ABOUT)
    joined = dict.fromkeys(row.predictor for row in predictions)
    with as_written(folder / ABOUT, "delete the folder"):
        listed = [name for name in about["predictors"] if name in joined]
    about["predictors"] = list(dict.fromkeys([*listed, *joined]))
    about["horizons"] = sorted({row.horizon for row in predictions})
    write_json(folder / ABOUT, {**about, "seeds": counts})
    return True


def _whole(part: BenchRows, steps: Sequence[int]) -> list[Key]:
    """The rows of every predictor x K that has one at every step, by step, in the order in which they were made."""
    tried = Counter((name, horizon) for _, name, horizon in part.predictions)
    whole = [pair for pair, count in tried.items() if count == len(steps)]
    return [(step, name, horizon) for step in steps for name, horizon in whole]
