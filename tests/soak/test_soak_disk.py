"""A disk that says no: at any primitive of a study, once or from there on, and to the log of a live engine."""

from __future__ import annotations

import errno
import logging
import random
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from faulty_disk import NEEDS_ROOM
from faulty_log import PLACES, Logged, logged
from killed_study import Outcome, Victim, small
from leap_loops import LOOPS
from small_text import write_documents
from soak._record import record, scale

pytestmark = [
    pytest.mark.failure(4),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and forks a process that has run torch"),
]
STUDIES, LOGS = scale(100), scale(100)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NUMBERS = (*NO_ROOM, errno.EROFS, errno.EIO, errno.EACCES)
COMMAND = "HYPOTHESIS_PROFILE=soak python -m pytest tests/soak/test_soak_disk.py"
LEAST: dict[str, Any] = {
    "training__steps": 12, "observe__interval_steps": 4, "sweep__horizons": [4],
    "sweep__predictors": ["hold", "lawa-3"], "cascade__kinds": [], "observe__lyapunov": False,
}  # fmt: skip
"""The least that writes every kind of file: a fault costs two runs of it."""


def test_a_disk_that_says_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("LEAPVERIFY_CACHE", str(tmp_path / "cache"))
    begin = time.perf_counter()
    count, studies = refused_studies(tmp_path)
    logs = refused_logs(tmp_path, caplog)
    ends = [(each.kind, each.lost) for each in studies] + [(f"log: {each.kind}", each.lost) for each in logs]
    by_kind: dict[str, list[str | None]] = defaultdict(list)
    for kind, said in ends:
        by_kind[kind].append(said)
    lost = [end for end in ends if end[1] is not None]
    record(
        "disk", rows=[4], command=COMMAND, injected=len(ends), survived=len(ends) - len(lost), lost=len(lost),
        refused=sum(each.lost is None for each in studies), seconds=time.perf_counter() - begin,
        packages=["safetensors", "pyarrow"],
        tables={"where": [
            {"where": kind, "injected": len(said), "lost": sum(each is not None for each in said)}
            for kind, said in sorted(by_kind.items())
        ]},
        note=f"{len(studies)} errors of {len(NUMBERS)} kinds in a micro study of {count} primitives that change the"
        " disk, once or from there on; survived: one sentence with a remedy, what was saved stays, and the same command"
        f" ends with the same records, tensors and tables to the bit. {len(logs)} in the log and the loggers of a live"
        " engine; survived: one warning, whole lines before it, the other logger hears everything, and training ends"
        " as without the engine to the bit",
    )  # fmt: skip
    assert not lost, lost


def refused_studies(folder: Path) -> tuple[int, list[Outcome]]:
    """How many primitives a study has, and what became of each refusal."""
    (folder / "text").mkdir()
    (folder / "runs").mkdir()
    victim, chance = Victim(small(write_documents(folder / "text"), **LEAST), folder / "runs"), random.Random(6)
    count, outcomes = len(victim.kinds), []
    for turn in range(STUDIES):
        # Spread over the whole run, each anywhere in its part.
        at = 1 + int((turn + chance.random()) * count / STUDIES)
        number = NUMBERS[turn % len(NUMBERS)]
        lasting = chance.random() < 0.5 and (number not in NO_ROOM or victim.kinds[at - 1] in NEEDS_ROOM)
        outcomes.append(victim.refuse_at(at, number, lasting=lasting))
        print(f"{turn} {at}/{count} {victim.kinds[at - 1]} {outcomes[-1]}", flush=True)
    return count, [each for each in outcomes if each.fired or each.lost]


def refused_logs(folder: Path, caplog: pytest.LogCaptureFixture) -> list[Logged]:
    """What became of each refusal in a log or a logger."""
    caplog.set_level(logging.WARNING)
    chance, found = random.Random(7), []
    while len(found) < LOGS:
        place, name = PLACES[len(found) % len(PLACES)], chance.choice(list(LOOPS))
        number = chance.choice(NUMBERS)
        # A folder that is there is made no second time.
        at = 1 if place == "mkdir" else chance.choice([1, 1, 2, 3, 4, 5])
        caplog.clear()
        path = folder / "log" / str(len(found)) / "events.jsonl"
        end = logged(path, name, place, number, at, seed=chance.randrange(3))
        if not end.fired:
            continue  # there was no such event
        said = [text for each in caplog.records if "training and leaping go on" in (text := each.getMessage())]
        if end.lost is None and len(said) != 1:
            end = Logged(end.kind, True, f"{len(said)} warnings")
        found.append(end)
    return found
