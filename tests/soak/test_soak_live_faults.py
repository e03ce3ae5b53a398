"""Random faults at random moments of a live engine: the run ends as if the engine had never been there."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter

import pytest

from leap_faults import ERRORS, MODES, PLACES, Ended, Fault, struck
from leap_loops import LOOPS
from soak._record import record, scale

pytestmark = pytest.mark.failure(6, 7, 8, 9)


def test_random_faults_leave_the_run_bit_identical(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    start, chance, number = time.perf_counter(), random.Random(6), 0
    wanted, ends, lost = scale(500), [], []
    while len(ends) < wanted:
        number += 1
        name, kind, mode = (chance.choice(list(each)) for each in (LOOPS, PLACES, MODES))
        fault = Fault(kind, chance.choice([1, 1, 2, 2, 3, 4, 5, 7, 9, 12, 16, 24]), chance.choice(list(ERRORS)))
        ended = struck(name, mode, fault, seed=chance.randrange(3))
        if not ended.fired:
            continue  # that call was never made
        ends.append((kind, name, ended))
        if not ended.same or ended.escaped:
            lost.append((number, name, kind, mode, fault, ended))
    kinds = Counter(kind for kind, _, _ in ends)
    rows = [_row(kind, count, [e for k, _, e in ends if k == kind]) for kind, count in sorted(kinds.items())]
    record(
        "live_faults",
        rows=[6, 7, 8, 9],
        command="HYPOTHESIS_PROFILE=soak python -m pytest tests/soak/test_soak_live_faults.py",
        injected=len(ends),
        survived=len(ends) - len(lost),
        lost=len(lost),
        seconds=time.perf_counter() - start,
        note=f"a fault of a random kind ({len(PLACES)}) at a random call of a random model ({len(LOOPS)}) in a random"
        f" mode ({len(MODES)}), errors of {len(ERRORS)} classes; survived: weights, buffers, moments, schedule, scaler,"
        " modes and random streams at the end are those of the run without the engine, to the bit",
        tables={"kinds": rows},
    )
    assert not lost
    assert len(ends) < 200 or set(kinds) == set(PLACES)


def _row(kind: str, count: int, ends: list[Ended]) -> dict[str, object]:
    same = sum(each.same and each.escaped is None for each in ends)
    off = sum(each.disabled is not None for each in ends)
    return {"kind": kind, "injected": count, "survived": same, "switched_off": off}
