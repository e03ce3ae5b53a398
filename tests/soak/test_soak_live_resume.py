"""A live run stopped at every step, and at random ones again and again, on models of several kinds."""

from __future__ import annotations

import random
import time

import pytest

from leap_resume import KINDS, LENGTH, resumed, whole
from soak._record import record, scale

pytestmark = pytest.mark.failure(5)
MODELS = ("mlp", "gpt2", "home-made", "scaled")


def test_every_stop_gives_the_uninterrupted_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    start, chance, lost = time.perf_counter(), random.Random(5), []
    wanted = {(kind, name): whole(kind, name) for kind in KINDS for name in MODELS}
    tries = [(kind, "gpt2", [stop]) for kind in KINDS for stop in range(1, LENGTH)][: scale(10_000)]
    for _ in range(scale(150)):
        stops = sorted(chance.sample(range(1, LENGTH), chance.randint(2, 6)))
        tries.append((chance.choice(list(KINDS)), chance.choice(MODELS), stops))
    for kind, name, stops in tries:
        if resumed(kind, stops, name) != wanted[kind, name]:
            lost.append((kind, name, stops))
    record(
        "live_resume",
        rows=[5],
        command="HYPOTHESIS_PROFILE=soak python -m pytest tests/soak/test_soak_live_resume.py",
        injected=sum(len(stops) for _, _, stops in tries),
        survived=sum(len(stops) for kind, name, stops in tries if (kind, name, stops) not in lost),
        lost=sum(len(stops) for _, _, stops in lost),
        seconds=time.perf_counter() - start,
        note=f"{len(tries)} runs of {LENGTH} steps in {len(KINDS)} configurations of the engine, stopped at every step"
        " or at 2 to 6 random ones, saved, loaded with weights_only=True into a new model, and gone on with; survived:"
        " events, counts, costs, weights, moments and random streams are those of the run without a stop",
    )
    assert not lost
