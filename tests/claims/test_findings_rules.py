"""Rules: what an interval decides, and the statistics behind it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from leapverify.claims.estimate import (
    SeedEstimate,
    averaged,
    holm,
    mean_over_seeds,
    nothing,
    rate_over_seeds,
    seed_means,
    share_over_seeds,
    spread_over_seeds,
)
from leapverify.claims.evidence import Evidence
from leapverify.claims.rule import FALLS, OPEN, STANDS, Bar, Claim, Line, Measured, Quantity, judge, verdict_of


def bar(low, high, line=0.0, above=True, seeds=4) -> Bar:
    return Bar(Quantity("x", SeedEstimate((low + high) / 2, low, high, 10, seeds)), line, above)


@pytest.mark.parametrize(
    ("low", "high", "above", "verdict"),
    [
        (0.1, 0.2, True, STANDS),
        (-0.2, -0.1, True, FALLS),
        (-0.1, 0.1, True, OPEN),
        (0.0, 0.1, True, OPEN),
        (0.1, 0.2, False, FALLS),
        (-0.2, -0.1, False, STANDS),
    ],
)
def test_only_a_whole_interval_beyond_the_line_decides(low, high, above, verdict):
    assert bar(low, high, above=above).verdict == verdict


def test_fewer_than_three_seeds_decide_nothing_and_it_says_so():
    few = bar(0.1, 0.2, seeds=2)
    assert few.verdict == OPEN
    assert few.reading == "open: fewer than 3 seeds"
    assert bar(0.1, 0.2, seeds=3).verdict == STANDS


def test_a_quantity_that_is_not_there_decides_nothing():
    assert Bar(Quantity("x", nothing("was not run")), 0.0).verdict == OPEN
    assert verdict_of([]) == OPEN


def test_a_claim_stands_by_all_conditions_and_falls_by_any_or_by_all():
    met, missed, open_ = bar(0.1, 0.2), bar(-0.2, -0.1), bar(-0.1, 0.1)
    assert verdict_of([met, met]) == STANDS
    assert verdict_of([met, open_]) == OPEN
    assert verdict_of([met, missed]) == FALLS
    assert verdict_of([met, missed], "all") == OPEN
    assert verdict_of([missed, missed], "all") == FALLS


def judged(bars, explains="", each=()):
    """A claim with these conditions, of which the named ones have an explanation of their own."""
    own = dict(enumerate(each))
    claim = Claim(
        key="k",
        text="claim",
        source="Table 1",
        control="control",
        needs=(),
        measure=lambda evidence, why: Measured([bar.quantity for bar in bars]),
        lines=tuple(Line(bar.line, bar.above, own.get(place, "")) for place, bar in enumerate(bars)),
        explains=explains,
    )
    return judge(claim, Evidence({}, {}))


def test_what_explains_a_difference_is_said_only_where_there_is_one():
    assert judged([bar(-0.2, -0.1)], "the schedule").explains == "the schedule"
    assert judged([bar(0.1, 0.2)], "the schedule").explains == ""
    assert judged([bar(-0.1, 0.2)], "the schedule").explains == ""


def test_of_several_explanations_those_of_the_missed_conditions_are_said():
    bars = [bar(0.1, 0.2), bar(-0.2, -0.1), bar(-0.3, -0.1)]
    assert judged(bars, each=("one", "two", "three")).explains == "two; three"
    assert judged(bars, "all", each=("one", "two")).explains == "two; all"
    assert judged(bars[:1], each=("one",)).explains == ""


def test_the_rule_names_the_line_that_the_code_uses():
    rule = judged([bar(0, 1, line=0.25), bar(0, 1, line=3, above=False)]).rule
    assert rule.startswith("Stands if *x* is above 0.25 and *x* is below 3.00, each with its whole interval;")


def test_one_line_serves_every_quantity_and_the_reason_names_the_missing_studies():
    said = []

    def measure(evidence, why):
        said.append(why)
        return Measured([bar(0.1, 0.2).quantity, bar(-0.2, -0.1).quantity], notes=["seen"])

    claim = Claim(key="k", text="c", source="s", control="x", needs=("base", "larger"), measure=measure,
                  lines=(Line(0.0),), notes=("always",))  # fmt: skip
    found = judge(claim, Evidence({}, {"larger": "failed"}))
    assert [each.verdict for each in found.bars] == [STANDS, FALLS]
    assert found.notes == ("seen", "always")
    assert said == ["base was not run; larger failed"]


def test_means_of_seeds_count_their_observations_and_differ_where_both_have_one():
    a, b = seed_means([(1, 1.0), (1, 0.0), (2, 1.0)]), seed_means([(2, 0.25), (3, 1.0)])
    assert (a.values, a.n) == ({1: 0.5, 2: 1.0}, 3)
    assert a.less(b) == ({2: 0.75}, 5)
    assert averaged([a, b]) == ({1: 0.5, 2: 0.625, 3: 1.0}, 5)


def test_holm_on_a_worked_example():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_keeps_the_order_and_lies_within_bonferroni(values):
    raw = {str(place): p for place, p in enumerate(values)}
    adjusted = holm(raw)
    for name, p in raw.items():
        assert p <= adjusted[name] <= min(1.0, len(values) * p) + 1e-12
    ordered = sorted(raw, key=lambda name: raw[name])
    assert [adjusted[name] for name in ordered] == sorted(adjusted.values())


def test_the_interval_of_a_spread_covers_the_true_one_as_often_as_it_says():
    chance = np.random.default_rng(0)
    draws = [spread_over_seeds(chance.normal(5.0, 2.0, size=4).tolist()) for _ in range(3000)]
    covered = np.mean([found.low <= 2.0 <= found.high for found in draws])
    # 0.95 with a standard error of 0.004.
    assert covered == pytest.approx(0.95, abs=0.016)


def test_a_relative_spread_is_the_spread_over_the_mean():
    values = [2.0, 2.1, 2.3, 1.9]
    plain, relative = spread_over_seeds(values), spread_over_seeds(values, relative=True)
    assert relative.value == pytest.approx(np.std(values, ddof=1) / np.mean(values))
    assert relative.high / relative.value == pytest.approx(plain.high / plain.value)
    assert spread_over_seeds([2.0]).value is None


def test_shares_that_all_agree_get_the_rule_of_three():
    found = share_over_seeds({1: 1.0, 2: 1.0, 3: 1.0}, 30)
    assert (found.low, found.high) == pytest.approx((0.9, 1.1))
    clipped = rate_over_seeds({1: 1.0, 2: 1.0, 3: 1.0}, 30)
    assert (clipped.low, clipped.high) == pytest.approx((0.9, 1.0))


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=12, unique=True))
def test_the_interval_of_a_mean_is_students(values):
    found = mean_over_seeds(dict(enumerate(values)), len(values))
    wanted = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(wanted, abs=1e-9)
    one = mean_over_seeds({1: 0.5}, 1)
    assert (one.value, one.low, one.reason) == (0.5, None, "too few seeds have it")


def test_shares_that_all_agree_get_the_rule_of_three_whatever_their_value():
    third = 5 / 28
    found = rate_over_seeds(dict.fromkeys(range(4), third), 112)
    assert (found.low, found.high) == pytest.approx((third - 3 / 112, third + 3 / 112))


def test_a_seed_without_a_number_is_left_out():
    found = mean_over_seeds({1: 1.0, 2: math.nan, 3: 2.0}, 3)
    assert (found.value, found.seeds) == (1.5, 2)


def test_numbers_are_written_with_their_unit_once():
    quantity = Quantity("x", SeedEstimate(0.5, 0.25, 0.75, 1200, 4), "predictions", ".0f", 100, " %")
    assert quantity.text == "50 % (95 % 25 to 75 %; 4 seeds, 1,200 predictions)"
    assert (
        Quantity("x", SeedEstimate(-0.0001, -0.1, 0.1, 3, 3), form="+.0f", scale=100, unit=" points").here == "0 points"
    )
    assert Quantity("x", nothing("was not run")).text == "none: was not run"
