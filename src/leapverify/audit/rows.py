"""The rows of one kind: readable as this version's columns, each once, every number finite."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leapverify.audit.finding import Finding
from leapverify.records import Benched, CascadeLink, Checkpoint, LossPoint, Prediction, RacePoint, RaceRun, SeedMeasure

KEYS: Mapping[type, tuple[str, ...]] = {
    Checkpoint: ("seed", "step"),
    LossPoint: ("seed", "step"),
    Prediction: ("seed", "step", "predictor", "horizon"),
    Benched: ("seed", "step", "predictor", "horizon"),
    CascadeLink: ("seed", "step", "kind", "predictor", "depth", "horizon", "link"),
    SeedMeasure: ("measure", "step", "regime", "seed_a", "seed_b"),
    RaceRun: ("task", "optimizer", "rate", "arm", "seed", "stage", "lr", "setting"),
    RacePoint: ("task", "optimizer", "rate", "arm", "seed", "stage", "lr", "setting", "step"),
}
"""What tells the rows of a kind apart."""

SECONDS = ("_s", "seconds")


def key_of(row: Any) -> tuple[Any, ...]:
    """What tells a row from the others of its kind."""
    return tuple(getattr(row, name) for name in KEYS[type(row)])


def check_rows(name: str, rows: Sequence[Any], remedy: str) -> Iterator[Finding]:
    """Duplicates, numbers that are not finite, and seconds below nothing.

    Args:
        name: the file.
        rows: its rows, all of one kind.
        remedy: what brings the file back.
    """
    twice = [key for key, count in Counter(map(key_of, rows)).items() if count > 1]
    if twice:
        told = ", ".join(f"{field} {value}" for field, value in zip(KEYS[type(rows[0])], twice[0], strict=True))
        yield Finding(name, "duplicate", f"holds {len(twice)} rows more than once, the first of {told}", remedy)
    for row in rows[:1]:
        for field in dataclasses.fields(row):
            yield from _check_column(name, field.name, rows, remedy)


def _check_column(name: str, column: str, rows: Sequence[Any], remedy: str) -> Iterator[Finding]:
    values = [(row, getattr(row, column)) for row in rows]
    wrong = [(row, value) for row, value in values if isinstance(value, float) and not math.isfinite(value)]
    if wrong:
        row, value = wrong[0]
        text = f"{len(wrong)} of {len(rows)} values of {column} are not finite, the first ({value}) at {_at(row)}"
        yield Finding(name, "nonfinite", text, remedy)
    if column.endswith(SECONDS):
        early = [row for row, value in values if value is not None and value < 0]
        if early:
            text = f"{len(early)} values of {column} are below 0, the first at {_at(early[0])}: the clock was set back"
            yield Finding(name, "clock", text, "the times of this run say nothing; everything else stands")


def _at(row: Any) -> str:
    return ", ".join(f"{name} {getattr(row, name)}" for name in ("seed", "step") if hasattr(row, name)) or "a row"
