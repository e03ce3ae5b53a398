"""Arms: what they need, what they do to rates and weights, and how long their controls are."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from leapverify.analysis.race.arms import ARMS as ORDER
from leapverify.analysis.race.arms import RaceCase
from leapverify.race.arms import ARMS, CONTROLS, arm_named, arms_for, controls_of, setting_of, values_of, with_needs
from leapverify.race.assemble import assemble, schedule_of
from leapverify.race.averages import EMA, LAWA, Lookahead, swapped
from leapverify.race.plan import RaceUnit, Result, SeedCase, TunedChoice
from leapverify.race.tasks import build_tasks
from race_micro import micro, trained, unit_of
from race_records import race_run


def states(count: int) -> list[list[Tensor]]:
    chance = torch.Generator().manual_seed(0)
    return [[torch.randn(3, 2, generator=chance), torch.randn(4, generator=chance)] for _ in range(count)]


def follow(average: EMA | LAWA | Lookahead, parameters: list[Tensor], course: list[list[Tensor]]) -> list[Tensor]:
    for step, state in enumerate(course, 1):
        for parameter, value in zip(parameters, state, strict=True):
            parameter.copy_(value)
        average.after(step)
    out = [torch.empty_like(each) for each in parameters]
    average.write(out)
    return out


def close(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.allclose(x, y, rtol=0, atol=1e-6) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("window", [1, 4, 100])
def test_an_ema_is_the_mean_until_its_window_is_full_and_decays_then(window):
    course, parameters = states(9), states(1)[0]
    slow = [each.double() for each in course[0]]
    for t, state in enumerate(course[1:], 2):
        share = 1 / min(t, window)
        slow = [(1 - share) * a + share * b.double() for a, b in zip(slow, state, strict=True)]
    assert close(follow(EMA(parameters, window), parameters, course), [each.float() for each in slow])
    if window == 100:
        assert close(
            [each.float() for each in slow], [torch.stack(parts).mean(0) for parts in zip(*course, strict=True)]
        )


def test_lawa_is_the_mean_of_the_newest_states_that_count():
    course, parameters = states(11), states(1)[0]
    found = follow(LAWA(parameters, every=2, count=3), parameters, course)
    wanted = [torch.stack(parts).mean(0) for parts in zip(course[5], course[7], course[9], strict=True)]
    assert close(found, wanted)


def test_lawa_before_its_first_state_is_the_run_itself():
    parameters = states(1)[0]
    assert close(follow(LAWA(parameters, every=5, count=3), parameters, states(3)), parameters)


def test_lookahead_goes_back_to_its_slow_weights_and_with_a_whole_step_changes_nothing():
    start = states(1)[0]
    fast = [each.clone() for each in start]
    ahead = Lookahead(fast, k=2, alpha=0.5)
    for each in fast:
        each.add_(1.0)
    ahead.after(1)
    assert close(fast, [each + 1.0 for each in start])
    ahead.after(2)
    assert close(fast, [each + 0.5 for each in start])
    same = states(1)[0]
    assert close(follow(Lookahead(same, k=1, alpha=1.0), same, states(4)), states(4)[-1])


def test_swapped_weights_come_back_bit_by_bit_also_after_an_exception():
    parameters, others = states(2)
    before = [each.clone() for each in parameters]

    def fail_inside() -> None:
        with swapped(parameters, others):
            assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))


def test_averages_of_nothing_are_refused():
    parameters = states(1)[0]
    with pytest.raises(ValueError, match="an EMA over 0 steps averages nothing: give at least 1"):
        EMA(parameters, 0)
    with pytest.raises(ValueError, match="LAWA over 3 states, 0 steps apart, averages nothing"):
        LAWA(parameters, 0, 3)
    with pytest.raises(ValueError, match=r"Lookahead with k 0 and alpha 0\.5: give k of at least 1"):
        Lookahead(parameters, k=0)


def test_the_report_knows_every_arm_in_the_order_of_running():
    assert tuple(ARMS) == ORDER


def test_a_choice_of_arms_brings_the_baseline_and_what_it_needs():
    assert with_needs(["leap-auto"]) == ("baseline", "leap-auto")
    assert with_needs(["anneal"]) == ("baseline", "wsd", "anneal")
    assert with_needs(["shortened:leap-fixed"]) == ("baseline", "leap-fixed")
    assert with_needs(None) == tuple(ARMS)
    assert controls_of(["baseline", "leap-auto", "shadow"]) == ["shortened:leap-auto"]
    assert controls_of(["baseline", "wsd", "anneal"]) == ["shortened:anneal"]


def test_an_unknown_arm_is_refused_with_a_near_one():
    with pytest.raises(ValueError, match=r"there is no arm 'leap-aut': did you mean leap-auto\?"):
        with_needs(["leap-aut"])
    with pytest.raises(ValueError, match="there is no arm 'xyz': there are baseline, "):
        arm_named("xyz")


def test_schedule_free_is_left_out_for_other_optimizers_and_without_its_library(monkeypatch):
    assert "schedule-free" not in arms_for(None, "muon")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "schedule-free" not in arms_for(None, "adamw")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "schedulefree", None)
        with pytest.raises(ValueError, match=r"pip install 'leapverify\[race\]'"):
            trained("schedule-free")


def test_settings_are_said_in_steps():
    assert setting_of("wsd", 0.2, 400, 50) == "decay 0.2"
    assert setting_of("ema", 0.05, 400, 50) == "window 20"
    assert setting_of("leap-fixed", None, 400, 50) == "linear, K 50"
    assert setting_of("shortened:leap-fixed", None, 320, 50) == "320 steps"
    assert setting_of("baseline", None, 400, 50) == ""
    assert all(setting_of(name, value, 400, 50) for name in ARMS for value in values_of(name))


def rates(unit: RaceUnit) -> list[float]:
    """eta of every step, as the optimizer sees it."""
    config = micro(noise__steps=40)
    task = build_tasks(config)["noise"]
    parts = assemble(unit, task, config, task.material(0, Path()))
    found = []
    for _ in range(unit.steps):
        found.append({group["lr"] for each in parts.optimizers for group in each.param_groups}.pop())
        for optimizer, scheduler in zip(parts.optimizers, parts.schedulers, strict=True):
            optimizer.step()
            scheduler.step()
    return found


def test_rates_are_those_of_the_schedule():
    constant = rates(unit_of("constant"))
    assert constant == pytest.approx([0.0, 5e-3] + [1e-2] * 38)
    assert rates(unit_of("baseline")) == constant  # the noise task's baseline is constant
    wsd = rates(unit_of("wsd", value=0.2))
    assert wsd[:32] == pytest.approx(constant[:32])
    assert wsd[32:] == pytest.approx([1e-2 * (1 - math.sqrt(done / 8)) for done in range(8)])
    assert rates(unit_of("shortened:anneal", value=0.2, steps=10))[8:] == pytest.approx([1e-2, 1e-2 * (1 - 0.5**0.5)])


def test_a_shortened_schedule_is_the_baselines_squeezed():
    config = micro()
    task = dataclasses.replace(build_tasks(config)["noise"], schedule="cosine")  # type: ignore[type-var]
    long, short = (schedule_of(unit_of("baseline", steps=steps), task) for steps in (42, 22))
    assert [short(2 + i) for i in range(1, 21, 5)] == pytest.approx([long(2 + 2 * i - 1) for i in range(1, 21, 5)])


CASE = RaceCase("noise", "adamw", "usual")
CHOICES = {("noise", "adamw", arm): TunedChoice(1e-3, 0.2 if arm == "wsd" else None) for arm in ("baseline", "wsd")}


def result(**changes: object) -> Result:
    return Result((race_run(task="noise", rate="usual", steps=40, **changes),), ())


def controlled(name: str, **results: Result) -> RaceUnit | Result | None:
    found = {arm.replace("_", "-"): each for arm, each in results.items()}
    return SeedCase(build_tasks(micro())["noise"], CASE, 0, CHOICES, 1.5).control(name, found)


def test_a_control_trains_as_long_as_its_arm_did():
    found = controlled("shortened:leap-auto", leap_auto=result(real_steps=25, leapt_steps=15), baseline=result())
    assert isinstance(found, RaceUnit)
    assert (found.steps, found.lr, found.arm, found.target) == (25, 1e-3, "shortened:leap-auto", 1.5)


def test_a_control_of_an_arm_that_took_every_step_is_the_baseline_itself():
    base = result(arm="baseline", real_steps=40, final_loss=1.25)
    found = controlled("shortened:leap-auto", leap_auto=result(real_steps=40, leapt_steps=0), baseline=base)
    assert isinstance(found, Result)
    assert found.run == dataclasses.replace(base.run, arm="shortened:leap-auto", setting="as baseline")


def test_a_control_of_a_diverged_arm_takes_the_steps_that_its_leaps_left():
    base = result(real_steps=40)
    found = controlled(
        "shortened:leap-auto", leap_auto=result(real_steps=5, leapt_steps=8, final_loss=None), baseline=base
    )
    assert isinstance(found, RaceUnit)
    assert found.steps == 32


def test_annealing_is_controlled_by_wsd_of_the_same_length_where_it_got_there():
    wsd = result(arm="wsd", real_steps=40, final_loss=1.0)
    points = tuple(
        dataclasses.replace(point, arm="anneal", step=step, loss=loss)
        for point in trained("baseline").points[:1]
        for step, loss in ((0, 0.5), (10, 1.2), (20, 1.0), (30, 0.9))
    )
    anneal = Result((race_run(arm="anneal"),), points)
    found = controlled("shortened:anneal", wsd=wsd, anneal=anneal)
    assert isinstance(found, RaceUnit)
    assert (found.steps, found.value) == (20, 0.2)
    assert controlled("shortened:anneal", wsd=wsd, anneal=Result(anneal.runs, points[:2])) is None
    assert controlled("shortened:anneal", wsd=result(final_loss=None), anneal=anneal) is None


def test_every_control_belongs_to_arms_that_exist():
    assert all(need in ARMS for each in CONTROLS.values() for need in each.needs)
    assert {"shortened:leap-auto", "shortened:always-accept", "shortened:anneal"} <= set(CONTROLS)
    assert "shortened:always-reject" not in CONTROLS
