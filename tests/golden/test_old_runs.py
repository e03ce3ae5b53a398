"""Run folders that version 0.1.0 wrote: every command goes on with them, and their pages say what they said."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import leap_ranks
from golden_runs import config_of, here, inside, tables, words_of
from leapverify import load_study, run_study
from leapverify.audit import audit
from leapverify.bench.run import bench_predictors
from leapverify.race.race import run_race
from leapverify.report import build_report
from leapverify.study.resweep import sweep_study
from micro import timeless
from race_micro import micro as micro_race

ARCHIVE = Path(__file__).parent / "records" / "runs-of-0.1.0.tar.xz"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders as they were written, not to be changed."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "old-runs"


@pytest.fixture
def old(unpacked: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of them, in which to work."""
    shutil.copytree(unpacked, tmp_path / "old")
    with inside(tmp_path / "old") as folder:
        yield folder


def without_promise(words: list[str]) -> list[str]:
    """The old page's words without the figure that the saving on the convex task was held against.

    It was a promise to the team and no finding, so that the page no longer says it.
    """
    return [re.sub(r",\s(as|less than) promised there \(at least\s40\s%\)", "", piece) for piece in words]


def test_the_report_says_what_it_said(old: Path, unpacked: Path) -> None:
    page = build_report(Path("run"))
    assert words_of(page) == without_promise(json.loads((unpacked / "words.json").read_text()))
    assert tables(Path("run")) == tables(unpacked / "run")
    for before in sorted((unpacked / "run" / "figures").glob("*.json")):
        assert json.loads((Path("run/figures") / before.name).read_text()) == json.loads(before.read_text()), (
            before.name
        )


def test_only_what_was_left_out_is_missed(old: Path) -> None:
    left_out = ("report.html", "figures/plotly.min.js")
    found = [str(each) for each in audit(Path("run")) if not any(name in str(each) for name in left_out)]
    # So short a race has one window where a longer one has three, and tries it three times.
    assert [each for each in found if not each.startswith("race/runs.parquet: holds 6 rows more than once")] == []


@pytest.mark.slow
def test_it_is_swept_and_benched_again_and_its_race_goes_on(old: Path) -> None:
    before = timeless(load_study("run").predictions)
    assert len(before) == len(timeless(sweep_study("run", device="cpu").predictions))
    bench_predictors("run", predictors=["hold", "lawa-2"], horizons=(5, 10), device="cpu")
    run_race(micro_race(arms=["leap-fixed", "ema"], seeds=[0, 1]), "run")


def test_a_study_that_was_stopped_goes_on_to_the_same_numbers(old: Path) -> None:
    config = config_of(training__steps=40, model__hidden=8, sweep__horizons=[5, 10])
    straight = run_study(config, "straight", device="cpu")
    gone_on = run_study(config, "stopped", device="cpu")
    if json.loads(Path("run/environment.json").read_text())["cpu"] == here()["cpu"]:
        assert timeless(gone_on.predictions) == timeless(straight.predictions)
    assert len(gone_on.checkpoints) == 4


def test_a_live_run_goes_on(old: Path) -> None:
    saved = torch.load("live.pt", weights_only=True)
    run = leap_ranks.Run(None)
    leap = run.leap(policy="auto", anneal=True)
    for name in ("model", "optimizer", "scheduler"):
        getattr(run, name).load_state_dict(saved[name])
    run.taken = saved["taken"]
    leap.load_state_dict(saved["leap"])
    events = run.train(8, leap)
    assert [event.step for event in events] == [32, 36]
