"""Numbers and words that must not change: small runs of every kind against records that lie beside this file.

`make golden` writes the records anew: do so only where a number is meant to change, and say why in the CHANGELOG.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from golden_runs import KINDS, here
from marks import slow

RECORDS = Path(__file__).parent / "records"
ELSEWHERE = 1e-3
"""Relative; what another processor's rounding may grow to in the short runs behind the records."""


SLOW = {"study", "race", "ranks"}


@pytest.mark.parametrize("kind", [slow(kind) if kind in SLOW else kind for kind in KINDS])
def test_the_records_are_made_again(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = RECORDS / f"{kind}.json"
    made = json.loads(json.dumps(KINDS[kind](tmp_path)))
    if request.config.getoption("--write-golden"):
        path.write_text(json.dumps({"here": here(), "made": made}, ensure_ascii=False, separators=(",", ":")) + "\n")
        return
    kept = json.loads(path.read_text())
    found = differences(kept["made"], made, exact=kept["here"] == here())
    assert not found, "\n".join(found[:20])


def differences(kept: Any, made: Any, *, exact: bool, at: str = "") -> list[str]:
    """Where two trees differ; unless exactly, then in structure, and in numbers by more than rounding."""
    if isinstance(kept, dict) and isinstance(made, dict):
        found = [f"{at}: keys {sorted(kept.keys() ^ made.keys())}"] if kept.keys() != made.keys() else []
        shared = [key for key in kept if key in made]
        return found + [
            each for key in shared for each in differences(kept[key], made[key], exact=exact, at=f"{at}/{key}")
        ]
    if isinstance(kept, list) and isinstance(made, list):
        found = [f"{at}: {len(made)} entries, not {len(kept)}"] if len(kept) != len(made) else []
        pairs = enumerate(zip(kept, made, strict=False))
        return found + [each for n, (a, b) in pairs for each in differences(a, b, exact=exact, at=f"{at}/{n}")]
    if kept == made or (not exact and _near(kept, made)):
        return []
    return [f"{at}: {made!r:.120}, not {kept!r:.120}"]


def _near(kept: Any, made: Any) -> bool:
    """Numbers within rounding. Hashes and texts show every last bit, so they are compared on one machine alone."""
    if isinstance(kept, float) and isinstance(made, float):
        return math.isclose(kept, made, rel_tol=ELSEWHERE, abs_tol=ELSEWHERE) or (math.isnan(kept) and math.isnan(made))
    return isinstance(kept, str) and isinstance(made, str)
