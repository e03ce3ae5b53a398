"""One training run: same numbers, readings without a trace, honest bills, ends that are no crashes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from leapverify.analysis.race.arms import RaceCase
from leapverify.errors import Damaged
from leapverify.race.arms import ARMS, values_of
from leapverify.race.results import Store
from leapverify.race.tasks import build_tasks
from leapverify.race.unit import run_unit, warm_up
from race_micro import losses, micro, timeless, trained, unit_of

CONVEX = {"case": RaceCase("convex", "sgd", "tuned"), "lr": 0.0625}


def of(arm: str, **changes: object) -> dict[str, object]:
    return {"value": values_of(arm)[-1] if values_of(arm) else None, **changes}


@pytest.mark.parametrize("arm", ARMS)
def test_a_unit_gives_the_same_numbers_each_time_and_starts_where_all_start(arm):
    once, again = (trained(arm, **of(arm)) for _ in range(2))
    assert timeless(once.runs) == timeless(again.runs)
    assert timeless(once.points) == timeless(again.points)
    assert timeless(once.events) == timeless(again.events)
    assert once.points[0].loss == trained("baseline").points[0].loss
    assert once.run.final_loss == once.points[-1].loss is not None
    assert once.run.effective_steps >= 40
    assert once.notes == ()


@pytest.mark.parametrize("arm", ["always-reject", "shadow"])
def test_an_arm_that_never_leaps_trains_as_the_baseline_to_the_last_bit(arm):
    base, found = trained("baseline", **CONVEX), trained(arm, **CONVEX)
    assert losses(found) == losses(base)
    assert found.run.overhead_tokens > 0
    assert found.run.leapt_steps == 0
    assert found.run.tokens == base.run.tokens + found.run.overhead_tokens


@pytest.mark.parametrize("arm", ["schedule-free", "anneal", "ema", "lawa"])
def test_reading_leaves_no_trace(arm):
    if arm == "anneal":  # what is drawn to verify depends on the readings before: what is trained is compared
        assert losses(trained("constant", also=(("anneal", 0.2),))) == losses(trained("constant"))
        return
    often, once = (trained(arm, micro(noise__eval_every=every), **of(arm)) for every in (2, 20))
    assert often.run.final_loss == once.run.final_loss


def test_several_readings_of_one_run_are_what_each_gives_alone():
    also = (("ema", 0.1), ("lawa", 0.2), ("anneal", 0.2))
    together = trained("constant", also=also)
    assert [run.arm for run in together.runs] == ["constant", "ema", "lawa", "anneal"]
    for run in together.runs[:3]:
        alone = trained(run.arm, value=dict(also).get(run.arm))
        assert timeless([run]) == timeless([alone.run])
    assert {point.arm for point in together.points} == {"constant"}


def test_costs_are_three_forward_passes_a_step_and_what_the_tool_spends():
    base, leap = trained("baseline"), trained("always-accept")
    assert base.run.tokens == 3 * 2048 * 40
    assert base.run.overhead_tokens == 0
    assert [point.tokens for point in base.points] == [3 * 2048 * point.step for point in base.points]
    assert leap.run.tokens == 3 * 2048 * leap.run.real_steps + leap.run.overhead_tokens
    assert leap.run.overhead_tokens > 0
    ema = trained("ema", value=0.1).run
    assert ema.overhead_tokens == 0
    assert ema.overhead_s > 0


def test_seconds_do_not_count_the_readings():
    config = micro()
    task, wait = build_tasks(config)["noise"], 0.25
    found = run_unit(unit_of("baseline"), task, config, Path(), lambda step, loss: time.sleep(wait))
    assert found.run.seconds < wait * len(found.points)
    assert [point.seconds for point in found.points] == sorted(point.seconds for point in found.points)


def test_leaps_take_the_place_of_steps():
    run = trained("always-accept", **CONVEX).run
    assert run.accepted > 0
    assert run.real_steps < run.steps
    assert run.real_steps + run.leapt_steps == run.effective_steps == run.steps


def test_a_run_that_diverges_ends_early_and_has_no_final_loss():
    found = trained("baseline", case=CONVEX["case"], lr=1e6)
    assert found.run.final_loss is None
    assert found.run.real_steps < 40
    assert found.points[-1].loss is None
    assert all(point.loss is not None for point in found.points[:-1])
    leap = trained("leap-fixed", case=CONVEX["case"], lr=1e6)
    assert leap.run.final_loss is None
    both = trained("constant", case=CONVEX["case"], lr=1e6, also=(("ema", 0.1), ("anneal", 0.2)))
    assert [run.final_loss for run in both.runs] == [None, None, None]


def test_the_target_is_reached_at_the_first_reading_at_or_below_it():
    base = trained("baseline", **CONVEX)
    goal = base.points[3]
    run = trained("baseline", **CONVEX, target=goal.loss).run
    assert (run.target_step, run.target_tokens) == (goal.step, goal.tokens)
    assert run.real_steps == 40
    assert trained("baseline", **CONVEX, target=-1.0).run.target_step is None
    assert trained("baseline", **CONVEX, target=1e9).run.target_step == 5  # not at step 0, where nothing was trained


def test_held_out_passes_are_counted_where_the_set_ends():
    run = trained("always-reject").run
    assert run.heldout_batches > 0
    assert run.heldout_passes is None


def test_warming_up_changes_no_number():
    config = micro()
    task = build_tasks(config)["noise"]
    before = (task.steps, task.interval)
    warm_up(unit_of("wsd", value=0.2), task, config, Path())
    assert (task.steps, task.interval) == before
    assert losses(run_unit(unit_of("baseline"), task, config, Path())) == losses(trained("baseline"))


def test_a_unit_file_holds_what_was_written_and_a_damaged_one_is_named(tmp_path):
    store, unit = Store(tmp_path, "digest"), unit_of("leap-fixed")
    assert store.read(unit) is None
    with pytest.raises(Damaged, match="is missing"):
        store.need(unit)
    result = trained("leap-fixed")
    store.write(unit, result)
    assert store.read(unit) == result
    assert store.path(unit).name.startswith("race-noise-adamw-usual-leap-fixed-0-")
    assert Store(tmp_path, "other").read(unit) is None
    altered = json.loads(store.path(unit).read_text())
    altered["content"]["runs"][0]["final_loss"] = 0.0
    for content in (json.dumps(altered), "{", "[]", "{}"):
        store.path(unit).write_text(content)
        with pytest.raises(Damaged, match=store.path(unit).name):
            store.read(unit)


def test_units_that_differ_have_different_names():
    units = [
        unit_of("wsd", value=0.1),
        unit_of("wsd", value=0.2),
        unit_of("wsd", value=0.1, lr=2e-2),
        unit_of("baseline"),
    ]
    assert len({unit.key("x") for unit in units}) == 4
    assert unit_of("baseline").key("x") != unit_of("baseline").key("y")
