"""What a race's verdicts say: paid only where everything is beaten, and plainly so where it is not."""

import pytest

from leapverify.analysis.race.arms import arm_table
from leapverify.analysis.race.judge import best_rival
from leapverify.analysis.race.paired import paired_difference
from leapverify.analysis.race.race import RaceAnalysis
from leapverify.analysis.race.verdicts import race_verdicts, verdicts
from leapverify.analysis.race.wording import difference_text, numbers
from leapverify.analysis.wording import p_text, percent
from race_records import fields_of, of_arm, race_run, whole_race

BASE = [2.20, 2.21, 2.19, 2.22, 2.18, 2.205, 2.195, 2.215]
TOKENS = [1000.0] * 8


def shifted(by, wiggle=0.0):
    return [loss + by + wiggle * (-1) ** index for index, loss in enumerate(BASE)]


def race(leap, control, rival, *, base=TOKENS, seconds=0.5, losses=None, seeds=8):
    """A case from costs to the target: of the leap arm, of lr-x2, and the leap arm's loss above its control's."""
    losses = losses or shifted(-0.01, 0.001)
    runs = of_arm("baseline", BASE, base)
    runs += of_arm("leap-auto", losses, leap, real_steps=300, accepted=3, attempts=4, target_s=seconds)
    runs += of_arm("shortened:leap-auto", [loss - control for loss in losses], real_steps=300)
    runs += of_arm("lr-x2", BASE, rival)
    return [run for run in runs if run.seed < seeds]


WIN, LOSE, EVEN = ([1000.0 * f * (1 + 0.01 * i) for i in range(8)] for f in (0.5, 2.0, 1.0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "leaping paid on this run"),
        ({"control": 0.01}, "beat the baseline and lr-x2 but not its schedule shortened by the steps saved, so it did"),
        ({"rival": [400.0] * 8}, "shortened by the steps saved but not lr-x2, so it did not pay"),
        ({"leap": LOSE, "control": 0.01}, "leaping did not pay on this run: leap-auto ended 0.0100 nats"),
        ({"leap": LOSE}, "beat its schedule shortened by the steps saved but not the baseline or lr-x2"),
        ({"seconds": 2.0}, "but not the baseline's seconds, so it did not pay"),
        ({"seeds": 2}, "cannot say whether leaping pays (2 seeds bear no verdict, which takes at least 3)"),
        ({"leap": [None, *WIN[1:]]}, "leap-auto never reached the target on 1 of 8 seeds"),
    ],
)
def test_verdicts_follow_every_opponent(changes, words):
    case = {"leap": WIN, "control": -0.01, "rival": [800.0] * 8, **changes}
    text = verdicts(race(**case))[0]
    assert words in text
    assert text.startswith("pretrain, adamw: ")
    assert ("leaping paid" in text) is (changes == {})


def test_an_interval_that_includes_no_effect_is_no_success():
    noisy = [loss + by for loss, by in zip(BASE, [-0.02, 0.02, -0.03, 0.02, -0.02, 0.03, -0.03, 0.02], strict=True)]
    runs = race(WIN, 0.0, [800.0] * 8, losses=noisy)
    runs = [run for run in runs if run.arm != "shortened:leap-auto"]
    runs += of_arm("shortened:leap-auto", BASE, real_steps=300)
    (judged,) = RaceAnalysis(runs).judgements
    assert judged.beats_baseline
    assert judged.beats_rival
    assert not judged.beats_control
    assert not judged.pays


def test_a_missing_opponent_keeps_from_saying_that_it_pays():
    whole = race(WIN, -0.01, [800.0] * 8)
    for gone, why in (
        ("lr-x2", "no larger learning rate"),
        ("shortened:leap-auto", "was not run"),
        ("baseline", "no base"),
    ):
        text = verdicts([run for run in whole if run.arm != gone])[0]
        assert "cannot say whether leaping pays" in text, gone
        assert why in text
    failing = race(LOSE, 0.01, [800.0] * 8)
    assert "did not pay" in verdicts([run for run in failing if run.arm != "lr-x2"])[0]
    assert "no leap arm was run" in verdicts([run for run in whole if run.arm != "leap-auto"])[0]


def test_the_best_rival_is_the_fastest_and_never_one_that_failed():
    runs = race(WIN, -0.01, [800.0] * 8)
    runs += of_arm("ema", BASE, [700.0] * 8) + of_arm("lawa", BASE, [None] * 8) + of_arm("wsd", BASE, [10.0] * 8)
    rows = arm_table(runs)
    assert best_rival(rows) == "ema"
    assert best_rival([row for row in rows if row.arm in ("lawa", "wsd")]) == "lawa"
    assert best_rival([row for row in rows if row.arm == "wsd"]) is None


def test_a_policy_that_never_leaps_is_told_as_it_is():
    runs = of_arm("baseline", BASE, TOKENS) + of_arm("leap-auto", BASE, [1005.0] * 8, attempts=3)
    runs += of_arm("leap-fixed", BASE, [1001.0] * 8)
    text = verdicts(runs)[0]
    assert "leap-auto accepted none of its 24 attempts on 8 seeds, so it is the baseline and its own cost" in text
    assert "it reached the target with 1.005 (95 % 1.005 to 1.005) times the baseline's forward tokens" in text
    assert text.endswith("The same holds for leap-fixed.")


def test_what_leaping_saves_on_the_convex_task_is_said():
    runs = [race_run(**{**fields_of(run), "task": "convex"}) for run in race(WIN, -0.01, [800.0] * 8)]
    text = verdicts(runs)[0]
    assert text.endswith(". That saves 48 % of the forward tokens to the target (95 % 47 to 49 %).")
    slow = [
        race_run(**{**fields_of(run), "task": "convex"}) for run in race([f * 1.4 for f in WIN], -0.01, [800.0] * 8)
    ]
    assert "That saves 28 % of the forward tokens to the target (95 %" in verdicts(slow)[0]
    assert "nats" not in text


def overhead(*race):
    found = race_verdicts(RaceAnalysis(*race))
    return next(each.text for each in found if each.topic == "overhead of leap-auto")


def test_overhead_is_held_against_the_budget():
    runs, points = whole_race()
    text = overhead(runs, points)
    assert (
        "the budget is 1 % of the forward tokens. Pretrain, adamw: 0.60 % (at most 0.60 %), kept on each of 8" in text
    )
    assert "Noise, adamw" in text
    assert "exactly level with the baseline" in text
    assert "over it on 8 of 8 seeds" in overhead(runs, points, 0.5)
    assert overhead(of_arm("baseline", BASE)) == "cannot say: leap-auto was run neither on pretrain nor on noise."


def test_the_whole_race_is_judged_as_it_was_made():
    runs, points = whole_race()
    found = {verdict.topic: verdict.text for verdict in race_verdicts(RaceAnalysis(runs, points))}
    paid = [topic for topic, text in found.items() if "leaping paid" in text]
    assert paid == ["convex, sgd"]
    assert "(n = 8, p = 0.0039)" in found["convex, sgd"]
    assert "the same schedule shortened to its 392 real steps of 400" in found["pretrain, adamw"]
    assert "The same holds for leap-fixed and leap-line-search." in found["pretrain, adamw"]
    assert [topic for topic in found if topic.startswith("anneal")] == [
        "anneal, pretrain, adamw",
        "anneal, pretrain, muon",
    ]
    count = RaceAnalysis(runs, points).comparisons
    assert f"not corrected for the {count} comparisons made" in found["how far to trust this"]
    # 21 arms against the baseline, 4 controls, 2 of annealing in each of four cases; convex 5 and 1, noise 3 and 1.
    assert count == 4 * (21 + 4 + 2) + (4 + 1) + (3 + 1)
    assert "nan" not in " ".join(found.values())


def test_fewer_seeds_than_asked_for_are_told():
    runs, points = whole_race(seeds=(0, 1, 2))
    text = verdicts(runs, points)[-1]
    assert "It rests on 3 seeds a race, of 8 asked for: small effects can be missed." in text
    assert verdicts([]) == verdicts([], [])
    one = verdicts(*whole_race(seeds=(5,)))
    assert "1 seed bears no verdict" in one[0]


# --- words ---


def test_words_of_numbers():
    assert numbers(0.0012, -0.003, 0.006) == ["0.0012", "−0.0030", "0.0060"]
    assert numbers(3e-6, -1e-6) == ["3e−06", "−1e−06"]
    assert (p_text(0.7123), p_text(0.0), p_text(0.0039)) == ("0.71", "less than 0.0001", "0.0039")
    assert (percent(0.613), percent(3.21), percent(45.2), percent(-0.5)) == ("0.61 %", "3.2 %", "45 %", "−0.50 %")


def test_a_difference_below_is_told_with_its_interval_in_the_same_sense():
    other = dict.fromkeys(range(8), 2.0)
    found = paired_difference({seed: 2.0 - 0.001 * (seed + 1) for seed in range(8)}, other, "")
    text = difference_text(found, " nats", "it")
    assert text.startswith("0.0045 nats (95 % 0.00")
    assert text.endswith(" below it (n = 8, p = 0.0039)")
    lone = paired_difference({1: 2.5}, {1: 2.0}, "")
    assert difference_text(lone, "", "it") == "0.5000 (one seed, no interval) above it (n = 1, p = 1)"
