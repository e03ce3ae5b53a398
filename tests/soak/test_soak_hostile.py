"""Every reader under fire: changed files, made-up values and coverage-guided fuzzing; the counts go into fuzz.json."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hostile_readers import READERS
from soak._record import record, scale

HERE = Path(__file__).parent
COMMAND = "HYPOTHESIS_PROFILE=soak python -m pytest tests/soak/test_soak_hostile.py"
SECONDS = {"mutations": 8, "hypothesis": 4, "atheris": 8}
"""For each reader; ten times as long with SOAK_SCALE=10."""


def engines() -> list[str]:
    """Those that are installed: atheris has wheels for CPython 3.11 to 3.13 on Linux, and is left out elsewhere."""
    return [each for each in SECONDS if each != "atheris" or importlib.util.find_spec("atheris") is not None]


def fired(folder: Path) -> list[dict[str, Any]]:
    """What became of all inputs, by reader and engine."""
    seconds = {engine: scale(SECONDS[engine]) for engine in engines()}
    command = [sys.executable, "-W", "ignore", str(HERE / "fuzz_readers.py"), str(folder)]
    command += [f"{engine}={each}" for engine, each in seconds.items()]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    found = []
    for number, name in enumerate(READERS):
        for engine in seconds:
            result = folder / f"{number:02d}-{engine}.json"
            ended = {"tried": 1, "findings": {"the process ended": 1}, "read": 0, "refused": 0, "seconds": 0}
            told = json.loads(result.read_text()) if result.exists() else ended
            found.append({"reader": name, "engine": engine, **told})
    return found


@pytest.mark.failure(15)
def test_no_input_does_more_than_be_refused(tmp_path: Path) -> None:
    rows, findings, total = [], Counter[str](), Counter[str]()
    for found in fired(tmp_path):
        wrong = found.pop("findings")
        rows.append({**found, "findings": sum(wrong.values())})
        findings.update({f"{found['reader']}, {found['engine']}: {said}": count for said, count in wrong.items()})
        total.update({key: found[key] for key in ("tried", "read", "refused")})
        total["ms"] += round(1000 * found["seconds"])
    lost = sum(findings.values())
    record(
        "fuzz",
        rows=[15],
        command=COMMAND,
        tried=total["tried"],
        survived=total["tried"] - lost,
        lost=lost,
        refused=total["refused"],
        seconds=total["ms"] / 1000,
        packages=["hypothesis", "atheris", "pyarrow", "safetensors", "PyYAML"],
        note=(
            f"{len(READERS)} readers by {len(engines())} engines; lost: any exception but the reader's ValueError, "
            "more than 10 s, or 1,024 MB beside what the process had"
        ),
        tables={"readers": rows},
    )
    assert not findings, findings
