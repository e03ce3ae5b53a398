"""What a soak found, as one small JSON file that docs/reliability.md is made from.

    record("live_faults", rows=[6, 7, 8, 9], command="make soak", injected=500, survived=500, lost=0, seconds=31.0,
           note="random faults in a live run")

Every file has the same keys in the same order. `injected` counts faults, `tried` counts inputs; a record has one of
them, the other is null. `survived` of these went as promised, `lost` did not, `refused` were turned away with a
sentence as promised (and count as survived). `tables` holds whatever else a page is to show.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "reliability"
ROWS = range(1, 18)
KEYS = (
    "name", "rows", "command", "injected", "tried", "survived", "lost", "refused", "seconds", "versions", "note",
)  # fmt: skip
"""What every record holds; `tables` may follow."""


def record(
    name: str,
    *,
    rows: Sequence[int],
    command: str,
    survived: int,
    lost: int,
    seconds: float,
    note: str,
    injected: int | None = None,
    tried: int | None = None,
    refused: int = 0,
    packages: Sequence[str] = (),
    tables: Mapping[str, Any] | None = None,
) -> Path:
    """Write docs/results/reliability/NAME.json, or SOAK_RESULTS/NAME.json where that variable names a folder.

    Args:
        name: of the file.
        rows: of the failure table that the soak holds.
        command: that repeats it.
        survived: faults or inputs after which everything was as promised, those refused included.
        lost: the others.
        seconds: it took.
        note: one sentence: what was done to what.
        injected: faults.
        tried: inputs.
        refused: of the survived, those turned away with a sentence.
        packages: whose versions matter beside Python, torch and numpy.
        tables: lists of rows (dicts) by name.

    Raises:
        ValueError: a row that is none, both or none of `injected` and `tried`, or counts that do not add up.
    """
    if not rows or not set(rows) <= set(ROWS):
        raise ValueError(f"rows = {list(rows)} are none of the failure table: give numbers from 1 to 17")
    if (injected is None) == (tried is None):
        raise ValueError(f"{name} has injected = {injected} and tried = {tried}: give one of them")
    if survived + lost != (injected if injected is not None else tried) or refused > survived:
        raise ValueError(f"{name}: {survived} survived ({refused} refused) and {lost} lost are not what was done")
    counts = injected, tried, survived, lost, refused
    values = (name, sorted(rows), command, *counts, round(seconds, 1), _versions(packages), note)
    found: dict[str, Any] = dict(zip(KEYS, values, strict=True))
    if tables:
        found["tables"] = dict(tables)
    folder = Path(os.environ.get("SOAK_RESULTS", RESULTS))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    return path


def scale(full: int) -> int:
    """How many times: `full`, or that times SOAK_SCALE (a fraction for a quick look, above 1 for a longer soak)."""
    return max(1, round(full * float(os.environ.get("SOAK_SCALE", "1"))))


def line(path: Path) -> str:
    """A record in one line."""
    found = json.loads(path.read_text())
    done = f"{found['injected']} faults" if found["injected"] is not None else f"{found['tried']} inputs"
    rows = ", ".join(map(str, found["rows"]))
    refused = f" ({found['refused']} refused)" if found["refused"] else ""
    kept = f"{found['survived']} survived{refused}, {found['lost']} lost"
    return f"{found['name']}: rows {rows}; {done}, {kept}; {found['seconds']:.0f} s"


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("leapverify", "torch", "numpy", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found
