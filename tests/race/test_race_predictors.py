"""Predictors in a race: two arms each, their controls, names that are paths, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from leapverify.analysis.race.arms import RaceCase, is_of_predictor
from leapverify.cli.main import main
from leapverify.config.overrides import with_settings
from leapverify.errors import ConfigError
from leapverify.io import records
from leapverify.io.records import RaceRun
from leapverify.predict import CATALOGUE, names
from leapverify.race.arms import arm_named, arms_for, arms_of, controls_of, setting_of, with_needs
from leapverify.race.config import every_predictor
from leapverify.race.dry_run import dry_run
from leapverify.race.overrides import other_race
from leapverify.race.plan import RaceUnit, Result, SeedCase, TunedChoice, digest
from leapverify.race.race import run_race
from leapverify.race.tasks import build_tasks
from race_micro import micro, timeless, trained, unit_of, words
from race_records import race_run

CASE = RaceCase("noise", "adamw", "usual")
CHOICES = {("noise", "adamw", "baseline"): TunedChoice(1e-3)}


def test_a_predictor_has_two_arms_each_with_its_control():
    assert arms_of("rre") == ("always:rre", "leap:rre")
    always, verified = map(arm_named, arms_of("nino-mlp:/a/b.pt"))
    assert (always.leap["predictor"], always.leap["criterion"]) == ("nino-mlp:/a/b.pt", "always")
    assert verified.leap["predictor"] == "nino-mlp:/a/b.pt"
    assert "criterion" not in verified.leap
    assert arm_named("shortened:leap:rre").needs == ("leap:rre",)
    assert controls_of(["baseline", "leap-fixed", "always:a", "leap:a"]) == [
        "shortened:leap-fixed",
        "shortened:always:a",
        "shortened:leap:a",
    ]
    assert not any(map(is_of_predictor, ("leap-fixed", "always-accept", "shortened:leap-auto")))
    assert setting_of("always:rre", None, 100, 20) == "rre, K 20"
    assert setting_of("shortened:always:rre", None, 60, 20) == "60 steps"


def test_predictors_are_not_among_the_arms_unless_asked_for():
    assert not any(map(is_of_predictor, with_needs(None)))
    assert with_needs(["leap-fixed"], ["hold"]) == ("baseline", "leap-fixed", "always:hold", "leap:hold")
    assert with_needs(["shortened:leap:hold"], ["hold"]) == ("baseline", "leap:hold", "always:hold")
    assert arms_for(["baseline"], "muon", ["hold"]) == ("baseline", "always:hold", "leap:hold")


def test_all_is_every_predictor_that_needs_no_file_named_and_names_near_ones_where_unknown():
    every = micro(predictors=["all"]).predictors
    assert every == every_predictor()
    assert set(every) <= set(names())
    assert {"hold", "linear", "taylor-3"} <= set(every)
    assert micro(predictors=["linear", "all"]).predictors[0] == "linear"
    assert len(micro(predictors=["linear", "all"]).predictors) == len(every)
    with pytest.raises(ConfigError, match="unknown predictor ''"):
        micro(arms=["leap:"])
    with pytest.raises(ConfigError, match=r"unknown predictor 'linaer': did you mean linear"):
        micro(predictors=["linaer"])


def test_a_file_that_is_missing_is_said_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.safetensors"):
        micro(predictors=[f"wnn:{tmp_path / 'gone.safetensors'}"])


def test_a_path_in_a_name_gives_a_plain_short_file_name_and_different_paths_different_ones():
    config = micro()
    units = [unit_of(f"leap:wnn:/{'folder/' * 60}../{end}.pt") for end in "ab"]
    keys = [unit.key(digest(config)) for unit in units]
    assert keys[0] != keys[1]
    assert all(len(key) < 200 and "/" not in key and ":" not in key for key in keys)


def test_predictors_decide_no_number_of_the_other_runs():
    assert digest(micro(predictors=["linear"])) == digest(micro())
    assert other_race(micro(predictors=["linear"]), micro()) == ["arms: always:linear, leap:linear there, not now"]
    assert not other_race(micro(), micro(predictors=["linear"]))


def test_a_task_without_a_raced_rate_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"task noise with adamw is not raced at tuned rates: add usual to rates"):
        build_tasks(micro(rates=["tuned"]))
    assert build_tasks(micro(rates=["tuned"], tasks=["convex"]))["convex"].rates_of("sgd") == ("tuned",)


def test_the_dry_run_counts_the_arms_of_predictors():
    said = dry_run(micro(tasks=["noise"], arms=["baseline"], predictors=["linear"]))
    assert "baseline, always:linear, leap:linear, shortened:always:linear, shortened:leap:linear" in said[-2]


def test_the_dry_run_names_no_more_arms_than_a_line_holds():
    many = [f"taylor-{order}" for order in range(1, 8)]
    said = dry_run(micro(tasks=["noise"], arms=["baseline"], predictors=many))[-2]
    assert "baseline, always:... (7 arms), leap:... (7 arms), shortened:... (14 arms)  " in said


def test_arms_of_predictors_that_took_equally_many_steps_share_one_control():
    asked: list[RaceUnit] = []

    def done(unit: RaceUnit) -> Result:
        asked.append(unit)
        return Result((race_run(arm=unit.arm, setting=f"{unit.steps} steps"),), ())

    taken = {"always:a": 20, "leap:a": 40, "always:b": 20, "leap:b": 30, "leap-fixed": 20}
    results = {
        arm: Result((race_run(arm=arm, task="noise", steps=40, real_steps=steps, leapt_steps=40 - steps),), ())
        for arm, steps in {"baseline": 40, **taken}.items()
    }
    task = build_tasks(micro())["noise"]
    found = dict(SeedCase(task, CASE, 0, CHOICES, 1.0).controls(results, done))
    # A control that is judged by its seconds is trained for itself.
    assert [(unit.arm, unit.steps) for unit in asked] == [
        ("shortened:leap-fixed", 20),
        ("shortened:always:a", 20),
        ("shortened:leap:b", 30),
    ]
    settings = {name: each.run.setting for name, each in found.items() if each is not None}
    assert settings["shortened:always:b"] == "as shortened:always:a"
    assert settings["shortened:leap:a"] == "as baseline"
    assert settings["shortened:always:a"] == "20 steps"


def test_a_predictor_that_declines_everywhere_is_the_baseline_and_what_it_cost():
    config = micro(noise__steps=40)
    declined, plain = trained("always:taylor-20", config), trained("baseline", config)
    assert (declined.run.attempts, declined.run.leapt_steps, declined.run.real_steps) == (0, 0, 40)
    assert [each.loss for each in declined.points] == [each.loss for each in plain.points]
    assert not declined.notes


def test_unconditional_leaps_are_all_taken_and_count_as_effective_steps():
    found = trained("always:linear").run
    assert found.attempts == found.accepted > 0
    assert found.leapt_steps == 4 * found.accepted
    assert found.real_steps + found.leapt_steps >= 40


def test_a_race_of_predictors_goes_on_with_more_of_them_and_shows_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base = words(tasks=["noise"], arms=["baseline"])
    with pytest.raises(SystemExit) as leave:
        main(["race", *base, "--predictors", "linear,hold", "--out", "r"])
    assert not leave.value.code
    assert "predictors, noise, adamw: " in capsys.readouterr().out
    first = timeless(records.read(Path("r/race/runs.parquet"), RaceRun))
    done = run_race(micro(tasks=["noise"], arms=["baseline"], predictors=["linear", "hold", "lawa-5"]), "r")
    again = timeless(done.runs)
    assert all(row in again for row in first)
    assert {row["arm"] for row in again if row not in first} >= {"always:lawa-5", "leap:lawa-5"}
    table = Path("r/tables/race-predictors-noise-adamw-usual.md").read_text()
    assert all(name in table for name in ("linear", "lawa-5", "hold"))
    with pytest.raises(ConfigError, match=r"arms: always:lawa-5, leap:lawa-5 there, not now"):
        run_race(micro(tasks=["noise"], arms=["baseline"], predictors=["linear", "hold"]), "r")


def test_a_predictor_of_another_package_can_be_raced(monkeypatch):
    monkeypatch.setitem(CATALOGUE, "of-mine", CATALOGUE["linear"])
    assert trained("leap:of-mine").run.setting == "of-mine, K 4"
    assert with_settings(micro(), {"predictors": ["of-mine"]}).predictors == ("of-mine",)
