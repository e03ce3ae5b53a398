"""Two hundred kills of a study: in every kind of primitive from its first to its last, by lost power, at any time."""

from __future__ import annotations

import random
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from killed_study import Outcome, Victim, small
from small_text import write_documents
from soak._record import record, scale

pytestmark = [
    pytest.mark.failure(1, 5),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and forks a process that has run torch"),
]
KILLS, POWER, TIMES = scale(150), scale(20), scale(20)
COMMAND = "HYPOTHESIS_PROFILE=soak python -m pytest tests/soak/test_soak_kills.py"


def test_two_hundred_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAPVERIFY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    begin = time.perf_counter()
    victim, chance = Victim(small(write_documents(tmp_path / "text")), tmp_path), random.Random(6)
    whole_s = time.perf_counter() - begin
    count = len(victim.kinds)
    outcomes: list[Outcome] = []
    for number in range(KILLS):
        # Spread over the whole run, each anywhere in its part.
        at = 1 + int((number + chance.random()) * count / KILLS)
        outcomes.append(victim.kill_at(at))
        print(f"{number} {at}/{count} {outcomes[-1]}", flush=True)
    for number in range(POWER):
        for draw in (None, random.Random(number)):
            at = 1 + int((number + chance.random()) * count / POWER)
            outcomes.append(victim.cut_power_at(at, draw))
            print(f"{number} {at}/{count} {outcomes[-1]}", flush=True)
    for _ in range(TIMES):
        outcomes.append(victim.kill_after(whole_s * chance.random() / 3))
        print(outcomes[-1], flush=True)
    fired = [each for each in outcomes if each.fired]
    lost = [each for each in fired if each.lost]
    by_kind: dict[str, list[Outcome]] = defaultdict(list)
    for each in fired:
        by_kind[each.kind].append(each)
    rows = [
        {"where": kind, "injected": len(found), "lost": sum(each.lost is not None for each in found)}
        for kind, found in sorted(by_kind.items())
    ]
    record(
        "kill", rows=[1, 5], command=COMMAND, injected=len(fired), survived=len(fired) - len(lost), lost=len(lost),
        seconds=time.perf_counter() - begin, packages=["safetensors", "pyarrow"], tables={"where": rows},
        note=f"SIGKILL in a micro study of {count} primitives that change the disk, or power lost there by a model of"
        " what fsync promises; survived: the same command ends with the same records, tensors and tables to the bit,"
        " and goes on from the last checkpoint that was written",
    )  # fmt: skip
    assert not lost, lost
