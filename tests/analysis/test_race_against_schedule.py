"""Predictors of a race against their shortened schedules: which control, which word, which order, which sentence."""

from __future__ import annotations

import pytest

from leapverify.analysis.race.arms import arm_table, by_case
from leapverify.analysis.race.predictors import against_schedule, outcome_text
from leapverify.analysis.race.race import RaceAnalysis
from leapverify.analysis.race.verdicts import verdicts
from leapverify.io.records import RaceRun
from race_records import of_arm

SEEDS = 8
BASE = [2.0 + 0.01 * seed for seed in range(SEEDS)]
LEAPT = {"attempts": 3, "accepted": 2, "real_steps": 340, "leapt_steps": 60}


def shifted(by: float, spread: float = 0.001) -> list[float | None]:
    return [loss + by + spread * (-1) ** seed for seed, loss in enumerate(BASE)]


def raced(name: str, verified: float | None, always: float | None) -> list[RaceRun]:
    """Both arms of a predictor: what each ends above its shortened schedule; None: without a leap."""
    runs = []
    for arm, by in ((f"leap:{name}", verified), (f"always:{name}", always)):
        if by is None:
            runs += of_arm(arm, BASE, attempts=2)
            runs += of_arm(f"shortened:{arm}", BASE, setting="as baseline")
        else:
            runs += of_arm(arm, shifted(0.05 + by), **LEAPT)
            runs += of_arm(f"shortened:{arm}", shifted(0.05, 0.0), real_steps=340, steps=340)
    return runs


@pytest.fixture(scope="module")
def runs() -> list[RaceRun]:
    return [
        *of_arm("baseline", BASE),
        *raced("hold", None, -0.02),
        *raced("good", -0.03, 0.04),
        *raced("idle", None, 0.3),
        *raced("even", 0.0, 0.0),
    ]


def test_every_predictor_is_measured_against_the_schedule_of_its_own_length(runs):
    rows = {row.predictor: row for row in against_schedule(runs)}
    good = rows["good"]
    assert good.verified is not None
    assert good.always is not None
    assert good.verified.control.difference.mean == pytest.approx(-0.03)
    assert good.verified.baseline.mean == pytest.approx(0.02)
    assert (good.verified.leapt_steps, good.verified.control.accepted, good.verified.control.attempts) == (60, 16, 24)
    assert (good.verified.word, good.always.word) == ("lower", "higher")
    assert rows["idle"].verified is not None
    assert rows["idle"].verified.word == "no leap"
    assert rows["idle"].verified.control.difference.mean == 0.0
    assert rows["even"].verified is not None
    assert rows["even"].verified.word == "open"


def test_those_that_leap_come_first_and_the_lowest_of_them(runs):
    assert [row.predictor for row in against_schedule(runs)] == ["good", "even", "hold", "idle"]


def test_few_seeds_and_divergence_have_words_of_their_own():
    few = [run for run in [*of_arm("baseline", BASE), *raced("x", -0.03, 0.04)] if run.seed < 2]
    tried = against_schedule(few)[0].verified
    assert tried is not None
    assert tried.word == "too few seeds"
    lost = [
        *of_arm("baseline", BASE),
        *of_arm("always:x", [None] * SEEDS, **LEAPT),
        *of_arm("shortened:always:x", BASE),
    ]
    row = against_schedule(lost)[0]
    assert row.verified is None
    assert row.always is not None
    assert row.always.word == "higher"


def test_arms_of_predictors_stay_out_of_the_tables_of_all_arms(runs):
    assert [row.arm for row in arm_table(runs)] == ["baseline"]
    assert [list(arms) for arms in by_case(runs).values()] == [["baseline"]]
    assert RaceAnalysis(runs).comparisons == 6  # two ways of four predictors, less those that never leapt


def test_the_verdict_counts_and_leaves_the_controls_out_of_the_count(runs):
    said = outcome_text(against_schedule(runs))
    assert said == (
        "Verified, 1 of 3 predictors (good) ended below the schedule shortened to as many real steps, 0 above it and 1 "
        "never leapt; applied unconditionally, 0 of 3 predictors ended below the schedule shortened to as many real "
        "steps, 2 above it (hold, which moves nothing, is lower too)."
    )
    found = verdicts(runs)
    assert f"predictors, pretrain, adamw: {said}" in found
    assert not any("no leap arm was run" in each or "overhead of" in each for each in found)
    assert any("no leap arm was run" in each for each in verdicts(of_arm("baseline", BASE)))
