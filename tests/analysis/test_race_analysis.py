"""What a race's records say: tests by enumeration, comparisons with known answers, and verdicts that do not flatter."""

import itertools
import math
import re

import numpy as np
import pytest
from scipy import stats

from leapverify.analysis.race.anneal import anneal_against_wsd, first_reached
from leapverify.analysis.race.arms import RaceCase, against_shortened, arm_table, by_case, case_text
from leapverify.analysis.race.paired import one_sided_p, paired_difference, paired_ratio
from leapverify.analysis.race.tuning import tuning_grid
from leapverify.analysis.race.verdicts import verdicts
from race_records import CASES, NEVER, SEEDS, fields_of, of_arm, race_point, race_run, whole_race

BASE = [2.20, 2.21, 2.19, 2.22, 2.18, 2.205, 2.195, 2.215]
TOKENS = [1000.0] * 8


def shifted(by, wiggle=0.0):
    return [loss + by + wiggle * (-1) ** index for index, loss in enumerate(BASE)]


# --- the test ---


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_sign_flip_p_is_the_share_of_all_sign_patterns(n):
    values = np.random.default_rng(n).normal(-0.3, 1.0, n)
    flips = [np.dot(signs, np.abs(values)) for signs in itertools.product((-1, 1), repeat=n)]
    assert one_sided_p(values) == pytest.approx(np.mean(np.array(flips) <= values.sum() + 1e-12), abs=1e-15)


def test_p_at_its_ends():
    assert one_sided_p([-1.0] * 8) == 2.0**-8
    assert one_sided_p([1.0] * 8) == 1.0
    assert one_sided_p([0.0] * 8) == 1.0
    assert one_sided_p([-3.0]) == 0.5


def test_p_and_that_of_the_mirror_image_cover_everything():
    values = np.random.default_rng(3).normal(size=10)
    assert one_sided_p(values) + one_sided_p(-values) == pytest.approx(1.0 + 2.0**-10)


def test_many_values_take_students_t():
    values = np.random.default_rng(4).normal(-0.2, 1.0, 20)
    assert one_sided_p(values) == pytest.approx(stats.ttest_1samp(values, 0.0, alternative="less").pvalue)
    assert one_sided_p([-1.0] * 20) == 2.0**-20
    assert one_sided_p([1.0] * 20) == 1.0


def test_p_holds_its_rate_where_nothing_happens():
    rng = np.random.default_rng(5)
    found = np.array([one_sided_p(rng.normal(size=8)) for _ in range(2000)])
    assert 0.03 < (found <= 0.05).mean() < 0.065


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_p_refuses_what_is_no_number(values):
    with pytest.raises(ValueError, match=r"make no test: give at least one, all of them finite"):
        one_sided_p(values)


# --- pairs ---


def test_difference_is_paired_and_says_who_failed():
    found = paired_difference({1: 1.0, 2: 2.0, 3: None, 4: 1.0}, {1: 1.5, 2: 2.5, 3: 1.0, 5: 1.0}, "none")
    assert dict(found.per_seed) == {1: -0.5, 2: -0.5}
    assert (found.mean, found.p, found.test, found.arm_failed, found.other_failed) == (-0.5, 0.25, "sign-flip", 1, 0)
    assert not found.lower
    lost = paired_difference({1: 1.0}, {1: None}, "none")
    assert (lost.mean, lost.reason, lost.other_failed, lost.p) == (None, "no seed has a finite loss in both", 1, None)
    assert paired_difference({}, {1: 1.0}, "it was not run").reason == "it was not run"


def test_lower_needs_an_interval_below_0_and_no_lost_seed():
    other = dict.fromkeys(range(8), 1.0)
    noise = np.random.default_rng(6).normal(0, 0.01, 8)
    better = {seed: 0.9 + noise[seed] for seed in range(8)}
    assert paired_difference(better, other, "").lower
    assert not paired_difference({**better, 3: None}, other, "").lower
    assert not paired_difference({seed: 1.0 + noise[seed] for seed in range(8)}, other, "").lower
    assert not paired_difference({0: 0.9, 1: 0.9}, other, "").lower


def test_ratio_is_geometric_and_counts_who_never_arrived():
    found = paired_ratio({1: 2.0, 2: 8.0, 3: None, 4: 1.0, 5: None}, {1: 1.0, 2: 1.0, 3: 1.0, 4: None, 5: None}, "")
    assert found.mean == pytest.approx(4.0)
    assert (found.n, found.seeds, found.other_only, found.arm_only, found.neither) == (2, 5, 1, 1, 1)
    assert not found.lower
    assert paired_ratio({1: 0.0}, {1: 5.0}, "").reason == "the target was met before the first step"
    assert paired_ratio({1: None}, {1: 5.0}, "").reason == "never reached the target"
    assert paired_ratio({1: 1.0}, {1: None}, "").reason == "the other never reached the target"


def test_ratio_of_swapped_arms_is_the_inverse():
    rng = np.random.default_rng(7)
    a, b = ({seed: float(rng.uniform(1, 3)) for seed in range(8)} for _ in range(2))
    one, two = paired_ratio(a, b, ""), paired_ratio(b, a, "")
    assert one.mean == pytest.approx(1 / two.mean)
    assert (one.low, one.high) == (pytest.approx(1 / two.high), pytest.approx(1 / two.low))


def test_winning_where_the_other_never_arrives_takes_six_seeds():
    for n, won in ((5, False), (6, True)):
        found = paired_ratio(dict.fromkeys(range(n), 1.0), dict.fromkeys(range(n), None), "")
        assert found.lower is won
    assert not paired_ratio({**dict.fromkeys(range(7), 1.0), 7: None}, dict.fromkeys(range(8), 2.0), "").lower


# --- arms ---


def test_arm_table_has_the_known_numbers():
    costs = [None, *[1100.0] * 7]
    runs = of_arm("baseline", BASE, TOKENS)
    runs += of_arm("leap-auto", shifted(0.01), costs, tokens=2000.0, overhead_tokens=20.0, seconds=10.0, overhead_s=0.5,
                   attempts=5, accepted=2, leapt_steps=20, real_steps=380, heldout_batches=12)  # fmt: skip
    row = next(row for row in arm_table(runs) if row.arm == "leap-auto")
    assert row.difference.mean == pytest.approx(0.01)
    assert row.difference.p == 1.0
    assert (row.n, row.reached, row.tokens_to_target) == (8, 7, 1100.0)
    assert (row.tokens.mean, row.tokens.other_only) == (pytest.approx(1.1), 1)
    assert (row.overhead_tokens.mean, row.overhead_tokens_max, row.overhead_s.mean) == (1.0, 1.0, 5.0)
    assert (row.attempts, row.accepted, row.leapt_steps, row.real_steps) == (40, 16, 20.0, 380.0)
    assert (row.heldout_batches, row.heldout_passes) == (12.0, None)


def test_the_median_cost_counts_absentees_as_beyond():
    row = arm_table(of_arm("baseline", BASE, [1.0, 2.0, 3.0, *[None] * 5]))[0]
    assert (row.tokens_to_target, row.reached) == (None, 3)
    row = arm_table(of_arm("baseline", BASE, [1.0, 2.0, 3.0, 4.0, 5.0, *[None] * 3]))[0]
    assert row.tokens_to_target == 4.5


def test_a_diverged_run_is_counted_not_averaged():
    runs = of_arm("baseline", BASE) + of_arm("lr-x4", [None, math.inf, *shifted(0.5)[2:]])
    row = next(row for row in arm_table(runs) if row.arm == "lr-x4")
    assert (row.nonfinite, row.final.seeds, row.difference.seeds, row.difference.arm_failed) == (2, 6, 6, 2)
    assert row.difference.mean == pytest.approx(0.5)


def test_arms_without_a_baseline_say_so():
    row = arm_table(of_arm("leap-auto", BASE))[0]
    assert (row.difference.reason, row.tokens.reason) == ("no baseline was run", "no baseline was run")
    base = arm_table(of_arm("baseline", BASE))[0]
    assert (base.difference.reason, base.difference.p) == ("this is the baseline", None)


def test_tuning_runs_are_no_part_of_the_race_and_cases_have_an_order():
    runs, _ = whole_race()
    assert list(by_case(runs)) == [RaceCase(*case[:3]) for case in CASES]
    arms = list(by_case(runs)[RaceCase("pretrain", "adamw", "tuned")])
    assert arms[:2] == ["baseline", "lr-x0.5"]
    assert arms.index("shortened:leap-auto") == arms.index("leap-auto") + 1
    assert {row.n for row in arm_table(runs)} == {len(SEEDS)}
    assert by_case([race_run(stage="tune")]) == {}
    assert case_text(RaceCase("finetune", "adamw", "usual"), runs) == "finetune, adamw, usual rate"
    assert case_text(RaceCase("pretrain", "adamw", "tuned"), runs) == "pretrain, adamw"


# --- the decisive control ---


def test_the_control_is_the_shortened_schedule():
    runs = of_arm("baseline", BASE)
    runs += of_arm("leap-auto", shifted(-0.01), real_steps=380, accepted=1)
    runs += of_arm("shortened:leap-auto", shifted(-0.02), real_steps=380)
    (row,) = against_shortened(runs)
    assert row.difference.mean == pytest.approx(0.01)
    assert (row.real_steps, row.steps, row.unleapt, row.absent, row.beaten) == ((380, 380), 400, 0, 0, False)
    assert row.difference.p == 1.0


def test_without_a_leap_the_baseline_is_the_control():
    runs = of_arm("baseline", BASE)
    leapt, idle = (of_arm("leap-auto", shifted(-0.01), real_steps=steps) for steps in (380, 400))
    runs += leapt[:5] + [race_run(arm="leap-auto", seed=run.seed, final_loss=BASE[run.seed]) for run in idle[5:]]
    runs += of_arm("shortened:leap-auto", shifted(-0.01), real_steps=380)[:4]
    (row,) = against_shortened(runs)
    assert (row.n, row.unleapt, row.absent, row.real_steps) == (8, 3, 1, (380, 400))
    assert dict(row.difference.per_seed) == pytest.approx(dict.fromkeys([0, 1, 2, 3, 5, 6, 7], 0.0))


def test_a_run_that_diverged_is_no_short_run():
    runs = of_arm("baseline", BASE) + of_arm("leap-auto", shifted(0.0)[:7], real_steps=380, leapt_steps=20)
    runs.append(race_run(arm="leap-auto", seed=7, final_loss=None, real_steps=40, leapt_steps=10, **NEVER))
    runs += of_arm("shortened:leap-auto", BASE, real_steps=380, setting="380 steps")
    runs[-1] = race_run(arm="shortened:leap-auto", seed=7, setting="390 steps")
    (row,) = against_shortened(runs)
    assert (row.real_steps, row.difference.arm_failed, row.beaten) == ((380, 390), 1, False)
    settings = {entry.arm: entry.setting for entry in arm_table(runs)}
    assert (settings["baseline"], settings["shortened:leap-auto"]) == ("", "differs by seed")


def test_a_control_that_was_not_run_is_named():
    runs = of_arm("baseline", BASE) + of_arm("always-accept", BASE, real_steps=300)
    (row,) = against_shortened(runs)
    assert (row.difference.reason, row.absent) == ("shortened:always-accept was not run", 8)


# --- annealing ---


def annealed(steps, *, wsd=2.15, control=2.16, seeds=8, muddle=0):
    """Runs and readings: the annealed loss falls to WSD's at steps[seed] (None: never)."""
    runs = of_arm("wsd", [wsd] * seeds) + of_arm("anneal", [2.1] * seeds)
    runs += of_arm("shortened:anneal", [control] * seeds)
    points = []
    for run in runs:
        if run.arm == "anneal":
            there = steps[run.seed]
            for step in range(0, 401, 20):
                below = there is not None and step >= there
                points.append(race_point(run, step, wsd - 0.001 if below else None if step == 40 else wsd + 0.1))
    return runs, points[::-1]


def test_the_first_reading_counts_and_holes_do_not():
    run = race_run(arm="anneal")
    points = [race_point(run, 60, 1.0), race_point(run, 20, None), race_point(run, 40, 1.9), race_point(run, 80, 0.5)]
    assert first_reached(points, 2.0).step == 40
    assert first_reached(points, 1.0).step == 60
    assert first_reached(points, 0.1) is None
    assert first_reached([race_point(run, 0, 1.0)], 2.0) is None


def test_steps_saved_are_known():
    (row,) = anneal_against_wsd(*annealed([320, 340, 360, 320, 340, 360, 320, 340]))
    assert (row.n, row.reached, row.wsd_steps, row.resolution) == (8, 8, 400, 20)
    assert row.saved.mean == pytest.approx(400 - 337.5)
    assert row.p == 2.0**-8
    assert row.tokens.mean == pytest.approx(math.exp(np.mean(np.log(np.array([320, 340, 360] * 2 + [320, 340]) / 400))))
    assert row.control.mean == pytest.approx(2.149 - 2.16)
    text = verdicts(*annealed([320, 340] * 4))[1]
    assert text.startswith("anneal, pretrain, adamw: constant rate + anneal reached the loss of the tuned WSD baseline")
    assert re.search(r"70 steps \(95 % 6\d to 7\d\) sooner than WSD's 400 steps \(one-sided p = 0.0039\)", text)


def test_a_seed_that_never_got_there_counts_against():
    (row,) = anneal_against_wsd(*annealed([320, None, 340, 320, 340, 360, 320, 340]))
    assert (row.n, row.reached, row.saved.seeds) == (8, 7, 7)
    assert row.p == one_sided_p([-80, 80, -60, -80, -60, -40, -80, -60])
    (none,) = anneal_against_wsd(*annealed([None] * 8))
    assert (none.p, none.saved.mean, none.reached) == (1.0, None, 0)
    text = verdicts(*annealed([320, None, 340, 320, 340, 360, 320, 340]))[1]
    assert "not shown that constant rate + anneal reaches" in text
    assert "is not below 0.01): it got there on 7 of 8 seeds" in text
    assert "the other seeds count against it" in text


def test_few_seeds_do_not_answer_the_question_of_annealing():
    text = verdicts(*annealed([320] * 7, seeds=7))[1]
    assert "not shown that" in text
    assert "n = 7 is below the 8 seeds asked for" in text
    late = verdicts(*annealed([400] * 8))[1]
    assert "p = 1 is not below 0.01" in late


def test_the_shortened_wsd_may_spoil_it():
    text = verdicts(*annealed([320] * 8, control=2.149))[1]
    assert "cannot say that a shorter WSD run would not do as well" in text
    runs, points = annealed([320] * 8)
    gone = [run for run in runs if run.arm != "shortened:anneal"]
    assert "(shortened:anneal was not run)" in verdicts(gone, points)[1]


def test_what_is_missing_for_annealing_is_said():
    runs, points = annealed([320] * 8)
    assert anneal_against_wsd(runs, [])[0].reason == "no reading of the annealed loss was recorded"
    for gone in ("wsd", "anneal"):
        (row,) = anneal_against_wsd([run for run in runs if run.arm != gone], points)
        assert row.reason == f"no {gone} arm was run"
    broken = [race_run(**{**fields_of(run), "final_loss": None}) if run.arm == "wsd" else run for run in runs]
    assert anneal_against_wsd(broken, points)[0].reason == "no seed has both arms with a finite WSD loss"
    assert "cannot say: no reading" in verdicts(runs)[1]


# --- tuning, overhead, trust ---


def test_the_grid_marks_what_was_chosen_and_its_edges():
    found = {(row.schedule, row.lr, row.setting): row for row in tuning_grid(whole_race()[0])}
    chosen = {key for key, row in found.items() if row.chosen}
    assert chosen == {("baseline", 1e-3, ""), ("wsd", 1e-3, "decay 0.2"), ("constant", 1e-3, ""),
                      ("schedule-free", 1e-3, "")}  # fmt: skip
    assert found["baseline", 1e-3, ""].edge == ""
    assert found["wsd", 1e-3, "decay 0.2"].edge == ""
    assert found["constant", 2e-3, ""].lowest
    assert found["schedule-free", 1e-3, ""].nonfinite == 2
    assert found["baseline", 1e-3, ""].final.mean == pytest.approx(2.2005)


@pytest.mark.parametrize(("best", "edge"), [(0, "lowest rate tried"), (1, ""), (2, "highest rate tried")])
def test_edges_of_a_grid(best, edge):
    runs = [
        race_run(stage="tune", seed=seed, lr=lr, final_loss=2.0 + 0.1 * abs(index - best), **NEVER)
        for seed in (1000, 1001)
        for index, lr in enumerate((1e-3, 2e-3, 4e-3))
    ]
    assert [row.edge for row in tuning_grid(runs) if row.chosen] == [edge]
    assert [row.chosen for row in tuning_grid(runs)] == [index == best for index in range(3)]
    text = verdicts([*runs, race_run(lr=(1e-3, 2e-3, 4e-3)[best])])[-1]
    assert (f"baseline of pretrain, adamw ({edge})" in text) is bool(edge)


def test_edges_of_a_setting_and_diverged_rates():
    runs = [
        race_run(stage="tune", arm="wsd", lr=lr, setting=f"decay {share}", final_loss=loss, **NEVER)
        for lr, share, loss in (
            (1e-3, 0.2, 2.2),
            (2e-3, 0.2, 2.1),
            (4e-3, 0.2, None),
            (2e-3, 0.1, 2.3),
            (2e-3, 0.4, 2.0),
        )
    ]
    found = {(row.lr, row.setting): row for row in tuning_grid(runs)}
    assert found[2e-3, "decay 0.4"].chosen
    assert found[2e-3, "decay 0.4"].edge == "highest decay tried"
    assert found[4e-3, "decay 0.2"].final.reason == "not finite on any seed"
    usual = [race_run(stage="tune", rate="usual", **NEVER)]
    assert [(row.edge, row.chosen) for row in tuning_grid(usual)] == [("only rate tried", True)]
    assert "edge of its grid" not in verdicts([*usual, race_run(rate="usual")])[-1]
    windows = [race_run(stage="tune", arm="ema", setting=f"window {n}", final_loss=2.0, **NEVER) for n in (20, 8, 40)]
    found = tuning_grid([*windows, race_run(arm="ema", setting="window 40")])
    assert [row.setting for row in found] == ["window 8", "window 20", "window 40"]
    assert [(row.chosen, row.lowest) for row in found] == [(False, False), (False, False), (True, True)]
    assert all(row.schedule == "wsd" for row in tuning_grid([*runs, *usual]))
