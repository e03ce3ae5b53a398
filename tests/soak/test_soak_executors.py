"""Row 17 over and over: workers of a pool killed at random steps; every task ends with each of its states made once."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from leapverify.runs import Task, execution
from leapverify.runs.progress import Progress
from soak._record import record, scale


@pytest.mark.failure(17)
def test_killed_workers_lose_no_task_and_no_state(tmp_path: Path) -> None:
    chance, count, steps = random.Random(17), scale(100), range(1, 11)
    deaths = {seed: sorted(chance.sample(steps, chance.randint(0, 4))) for seed in range(count)}
    tasks = [
        Task(seed, "executor_work:advance", {"seed": seed, "folder": str(tmp_path), "deaths": deaths[seed]})
        for seed in range(count)
    ]
    told: list[Progress] = []
    began = time.perf_counter()
    with execution("processes", 2).open(tmp_path, 2) as executor:
        failures = executor.run(tasks, told.append)
    seconds = time.perf_counter() - began
    made = Counter((each.seed, each.step) for each in told if each.phase == "checkpoint")
    broken = {each.seed for each in tasks if each.key in failures}
    broken |= {seed for seed in range(count) for step in steps if made[seed, step] != 1}
    killed, lost = sum(map(len, deaths.values())), sum(len(deaths[seed]) for seed in broken)
    record(
        "executors",
        rows=[17],
        command="HYPOTHESIS_PROFILE=soak python -m pytest tests/soak/test_soak_executors.py",
        injected=killed,
        survived=killed - lost,
        lost=lost,
        seconds=seconds,
        note=f"kill -9 of the workers of a pool of two: {count} tasks of ten states, each killed before up to four of "
        "them; lost is a kill whose task failed, or made a state twice or not at all",
    )
    assert not broken
