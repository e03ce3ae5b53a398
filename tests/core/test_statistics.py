"""The statistics against brute force, tables and Monte Carlo."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from leapverify.core.statistics import (
    auc,
    auc_interval,
    bootstrap_interval,
    mean_std_cov,
    spearman,
    wilson,
)

theorem = settings(max_examples=60)
scored = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30)


def mean(groups: object) -> float:
    return float(np.mean(groups))  # type: ignore[call-overload]


# --- mean, deviation --------------------------------------------------------------------------------------------------


def test_mean_std_cov() -> None:
    assert mean_std_cov([2.0, 4.0, 6.0]) == (4.0, 2.0, 0.5)
    assert mean_std_cov([-2.0, -4.0, -6.0]) == (-4.0, 2.0, 0.5)
    assert mean_std_cov([5.0]) == (5.0, None, None)
    assert mean_std_cov([-1.0, 1.0]) == (0.0, math.sqrt(2.0), None)
    with pytest.raises(ValueError, match="no values were given"):
        mean_std_cov([])


# --- bootstrap --------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(0).normal(size=12).tolist()
    first = bootstrap_interval(values, mean, seed=1)
    assert first == bootstrap_interval(values, mean, seed=1)
    assert first != bootstrap_interval(values, mean, seed=2)


def test_the_global_random_stream_is_left_alone() -> None:
    before = str(np.random.get_state())
    bootstrap_interval([1.0, 2.0, 4.0], mean, seed=1)
    assert str(np.random.get_state()) == before


@pytest.mark.parametrize("groups", [8, 9, 20])
def test_the_interval_of_many_groups_holds_the_value_and_stays_within_the_range(groups: int) -> None:
    values = np.random.default_rng(groups).normal(size=groups).tolist()
    interval = bootstrap_interval(values, mean, seed=0)
    assert interval is not None
    assert min(values) <= interval.low <= mean(values) <= interval.high <= max(values)


@pytest.mark.parametrize("groups", [2, 3, 4, 5, 7])
def test_the_interval_of_a_mean_over_few_groups_is_students(groups: int) -> None:
    values = np.random.default_rng(groups).normal(size=groups).tolist()
    interval = bootstrap_interval(values, mean, seed=0, draws=20000)
    expected = stats.t.interval(0.95, groups - 1, loc=np.mean(values), scale=stats.sem(values))
    assert interval is not None
    width = expected[1] - expected[0]
    assert (interval.low, interval.high) == (
        pytest.approx(expected[0], abs=width / 50),
        pytest.approx(expected[1], abs=width / 50),
    )


def test_a_wider_level_gives_a_wider_interval() -> None:
    values = np.random.default_rng(4).normal(size=10).tolist()
    found = [bootstrap_interval(values, mean, seed=0, level=level) for level in (0.5, 0.8, 0.95)]
    widths = [interval.high - interval.low for interval in found if interval]
    assert widths == sorted(widths)
    assert widths[0] < widths[2]


@pytest.mark.parametrize("groups", [3, 4, 6, 10, 20])
def test_coverage_of_the_mean(groups: int) -> None:
    runs = 400
    rows = np.random.default_rng(5).normal(3.0, 2.0, size=(runs, groups)).tolist()
    found = [bootstrap_interval(row, mean, seed=0, draws=300) for row in rows]
    covered = sum(interval is not None and interval.low <= 3.0 <= interval.high for interval in found)
    low, high = stats.binom.ppf([0.001, 0.999], runs, 0.95)
    assert low <= covered <= high


def test_the_statistic_sees_whole_groups() -> None:
    groups = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    sums = {sum(map(sum, chosen)) for chosen in itertools.combinations_with_replacement(groups, 3)}
    seen = set()

    def total(chosen: object) -> float:
        seen.add(sum(map(sum, chosen)))  # type: ignore[call-overload]
        return sum(map(sum, chosen))  # type: ignore[call-overload]

    bootstrap_interval(groups, total, seed=0)
    assert seen == sums


def test_a_statistic_that_mostly_does_not_exist_has_no_interval() -> None:
    def rarely(chosen: object) -> float | None:
        return 1.0 if set(chosen) == {1} else None  # type: ignore[call-overload]

    assert bootstrap_interval([1, 2, 3, 4], rarely, seed=0) is None
    assert bootstrap_interval([1, 2, 3, 4], lambda chosen: math.nan, seed=0) is None


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_groups_have_no_interval(values: list[float]) -> None:
    assert bootstrap_interval(values, mean, seed=0) is None
    assert auc_interval([([1.0, 2.0], [True, False])] * len(values), seed=0) is None


def test_bad_bootstraps_are_named() -> None:
    with pytest.raises(ValueError, match=r"level = 1\.0 is no confidence level"):
        bootstrap_interval([1.0, 2.0], mean, seed=0, level=1.0)
    with pytest.raises(ValueError, match="draws = 0 is no number of resamples"):
        auc_interval([], seed=0, draws=0)


# --- AUC --------------------------------------------------------------------------------------------------------------


def brute_force_auc(scores: list[float], successes: list[bool]) -> float | None:
    pairs = [
        (a, b)
        for a, hit in zip(scores, successes, strict=True)
        if hit
        for b, other in zip(scores, successes, strict=True)
        if not other
    ]
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs) if pairs else None


@theorem
@given(scored)
def test_auc_against_brute_force(rows: list[tuple[int, bool]]) -> None:
    scores, successes = [float(score) for score, _ in rows], [hit for _, hit in rows]
    expected = brute_force_auc(scores, successes)
    assert auc(scores, successes) == (None if expected is None else pytest.approx(expected))


@theorem
@given(scored)
def test_auc_is_about_ranks_and_mirrors(rows: list[tuple[int, bool]]) -> None:
    scores, successes = np.array([score for score, _ in rows], dtype=float), np.array([hit for _, hit in rows])
    found = auc(scores, successes)
    assert auc(np.exp(scores) * 7.0, successes) == found
    if found is None:
        assert successes.all() or not successes.any()
    else:
        assert auc(-scores, successes) == pytest.approx(1.0 - found)
        assert auc(scores, ~successes) == pytest.approx(1.0 - found)


def test_auc_of_infinite_scores() -> None:
    assert auc([-math.inf, 0.0, math.inf], [False, True, True]) == 1.0


def some_seeds(count: int, shift: float, seed: int) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    rng = np.random.default_rng(seed)
    hits = [rng.random(20) < 0.4 for _ in range(count)]
    return [(rng.normal(size=20).round(1) + shift * hit, hit) for hit in hits]


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_the_fast_auc_interval_is_the_bootstrap_of_the_pooled_auc(count: int) -> None:
    groups = some_seeds(count, 0.7, count)

    def pooled(chosen: object) -> float | None:
        scores, hits = zip(*chosen, strict=True)  # type: ignore[call-overload]
        return auc(np.concatenate(scores), np.concatenate(hits))

    found = auc_interval(groups, seed=3, draws=500)
    slow = bootstrap_interval(groups, pooled, seed=3, draws=500)
    assert found is not None
    assert slow is not None
    assert (found.low, found.high) == pytest.approx((max(0.0, slow.low), min(1.0, slow.high)), abs=1e-12)


def test_the_auc_interval_separates_skill_from_none() -> None:
    skilled = auc_interval(some_seeds(8, 1.5, 1), seed=0)
    none = auc_interval(some_seeds(8, 0.0, 1), seed=0)
    assert skilled is not None
    assert none is not None
    assert skilled.low > 0.5
    assert none.low < 0.5 < none.high


def test_auc_interval_without_a_class() -> None:
    assert auc_interval([([1.0, 2.0], [True, True])] * 3, seed=0) is None


def test_bad_scores_are_named() -> None:
    with pytest.raises(ValueError, match="2 scores and 1 successes do not pair"):
        auc([1.0, 2.0], [True])
    with pytest.raises(ValueError, match="1 of 2 scores are NaN and have no rank"):
        auc([1.0, math.nan], [True, False])


# --- proportions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_against_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-4)


@theorem
@given(st.integers(1, 400), st.floats(0.0, 1.0), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_against_scipy(n: int, share: float, level: float) -> None:
    successes = round(share * n)
    expected = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert wilson(successes, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_knows_nothing_and_nonsense_is_named() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="5 successes of 4 make no proportion"):
        wilson(5, 4)


# --- rank correlation -------------------------------------------------------------------------------------------------


@theorem
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=30))
def test_spearman_against_scipy(pairs: list[tuple[int, int]]) -> None:
    a, b = zip(*pairs, strict=True)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert spearman(a, b) is None
    else:
        assert spearman(a, b) == pytest.approx(float(stats.spearmanr(a, b).statistic), abs=1e-12)


def test_spearman_of_monotone_pairs() -> None:
    a = np.random.default_rng(0).normal(size=20)
    assert spearman(a, np.exp(a)) == 1.0
    assert spearman(a, -(a**3)) == -1.0


def test_spearman_without_meaning_and_nonsense() -> None:
    assert spearman([1.0, 2.0], [2.0, 1.0]) is None
    with pytest.raises(ValueError, match="3 and 2 values do not pair"):
        spearman([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="a NaN among the values"):
        spearman([1.0, math.nan, 2.0], [1.0, 2.0, 3.0])
