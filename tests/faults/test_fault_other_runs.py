"""Kills elsewhere: a race, a bench, and a user's own loop that keeps LeapVerify's state with torch.save."""

from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from faulty_disk import Disk, kill
from forked import forked
from leap_loops import fingerprint_of, make
from leapverify import run_study
from leapverify.bench.results import BenchSeed
from leapverify.bench.run import bench_predictors
from leapverify.race.race import run_race
from leapverify.train.state import capture_rng, restore_rng
from micro import MICRO
from micro import timeless as without_times
from race_micro import micro as race_micro
from race_micro import timeless

pytestmark = [
    pytest.mark.failure(1, 5),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and forks a process that has run torch"),
]


def killed_in(out: Path, at: int, work) -> None:
    def run(_):
        with Disk(out, at, kill).watched():
            work()

    assert forked(run).killed


@pytest.mark.slow
def test_a_race_that_is_killed_goes_on_to_the_same_rows(tmp_path):
    config = race_micro(tasks=["noise"], arms=["leap-auto"], optimizers=["adamw"])
    whole = tmp_path / "whole"
    whole.mkdir()
    with Disk(whole).watched() as disk:
        wanted = run_race(config, whole)
    for share in (0.2, 0.5, 0.8):
        out = tmp_path / f"{share}"
        out.mkdir()
        killed_in(out, int(share * len(disk.kinds)), lambda out=out: run_race(config, out))
        found = run_race(config, out)
        assert timeless(found.runs) == timeless(wanted.runs)
        assert timeless(found.points) == timeless(wanted.points)


def bench_rows(run: Path) -> list[dict]:
    rows = BenchSeed(run, 42).read()
    every = [found for part in (rows.predictions, rows.benched) for _, found in sorted(part.items())]
    return without_times(every)


@pytest.mark.slow
def test_a_bench_that_is_killed_goes_on_to_the_same_rows(text, tmp_path):
    settings = {**MICRO, "training.steps": 30, "cascade.kinds": [], "sweep.predictors": ["hold"]}
    settings |= {"snapshots.weights": "all", "snapshots.optimizer": "all"}
    settings |= {"data.source": f"text:{text}"}
    study = run_study("tiny", tmp_path / "study", device="cpu", settings=settings).path
    options = {"predictors": ["hold", "linear", "lawa-3"], "horizons": [5], "device": "cpu"}
    shutil.copytree(study, tmp_path / "whole")
    with Disk(tmp_path / "whole").watched() as disk:
        bench_predictors(tmp_path / "whole", **options)
    wanted = bench_rows(tmp_path / "whole")
    assert wanted
    for share in (0.15, 0.4, 0.7):
        out = tmp_path / f"{share}"
        shutil.copytree(study, out)
        killed_in(out, int(share * len(disk.kinds)), lambda out=out: bench_predictors(out, **options))
        bench_predictors(out, **options)
        assert bench_rows(out) == wanted


STEPS, SAVED_EVERY = 24, 4
ALWAYS = {"policy": "fixed", "predictor": "linear", "horizon": 3}


def user_loop(folder: Path) -> tuple[str, list[dict]]:
    """Trains, and keeps all of it every few steps as users do: a file of its own, then a rename."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    loop = make("mlp")
    leap = loop.leap(**ALWAYS)
    path, done, events = folder / "latest.pt", 0, []
    if path.is_file():
        kept = torch.load(path, weights_only=True)
        loop.model.load_state_dict(kept["model"])
        loop.optimizer.load_state_dict(kept["optimizer"])
        loop.scheduler.load_state_dict(kept["scheduler"])
        leap.load_state_dict(kept["leap"])
        restore_rng(kept["rng"])
        done, events = kept["done"], kept["events"]
    while done < STEPS:
        events += [
            [event.step, event.status, event.loss_predicted] for event in loop.run(SAVED_EVERY, leap, start=done)
        ]
        done += SAVED_EVERY
        parts = {"model": loop.model, "optimizer": loop.optimizer, "scheduler": loop.scheduler, "leap": leap}
        state = {name: part.state_dict() for name, part in parts.items()}
        with (folder / "new.pt").open("wb") as handle:
            torch.save({**state, "rng": capture_rng(), "done": done, "events": events}, handle)
            os.fsync(handle.fileno())
        os.replace(folder / "new.pt", path)
    return fingerprint_of(loop), events


def test_a_users_loop_that_is_killed_anywhere_in_its_saves_goes_on_to_the_same_weights_and_decisions(tmp_path):
    (tmp_path / "whole").mkdir()
    with Disk(tmp_path / "whole").watched() as disk:
        wanted = user_loop(tmp_path / "whole")
    assert any(status == "accepted" for _, status, _ in wanted[1]), "nothing was decided"
    chance = random.Random(0)
    for number in range(8):
        out = tmp_path / f"{number}"
        out.mkdir()
        killed_in(out, chance.randrange(1, len(disk.kinds) + 1), lambda out=out: user_loop(out))
        assert user_loop(out) == wanted
