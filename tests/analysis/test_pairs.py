"""Rows of the pairwise comparison: the values are the measures', the nulls are where they were asked for."""

import numpy as np
import pytest

from leapverify.analysis.study.geometry import linear_cka, procrustes_distance, rsa
from leapverify.analysis.study.null import permutations
from leapverify.analysis.study.pairs import PROCRUSTES_SHUFFLES, compare_fingerprints

MEASURES = {"cka": linear_cka, "procrustes": procrustes_distance, "rsa": rsa}
SEEDS, STEPS = (42, 43, 44), (0, 50, 100, 150, 200)


@pytest.fixture
def fingerprints():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(14, 6))
    return {
        seed: {step: (step / 200 * common + rng.normal(size=(14, 6))).astype(np.float32) for step in STEPS}
        for seed in SEEDS
    }


def test_every_pair_and_step_has_its_value_and_the_untrained_one(fingerprints):
    rows = compare_fingerprints(fingerprints, shuffles=5)
    assert len(rows) == 3 * 3 * 4  # measures, pairs, trained steps
    for row in rows:
        a, b = fingerprints[row.seed_a], fingerprints[row.seed_b]
        assert row.seed_a < row.seed_b
        assert row.value == pytest.approx(MEASURES[row.measure](a[row.step], b[row.step]), abs=1e-12)
        assert row.untrained == pytest.approx(MEASURES[row.measure](a[0], b[0]), abs=1e-12)


def test_nulls_equal_shuffling_the_second_seeds_probes(fingerprints):
    orders = permutations(14, 60, seed=7)
    for row in compare_fingerprints(fingerprints, shuffles=60, seed=7):
        a, b = fingerprints[row.seed_a][row.step], fingerprints[row.seed_b][row.step]
        used = orders[:PROCRUSTES_SHUFFLES] if row.measure == "procrustes" else orders
        values = [MEASURES[row.measure](a, b[order]) for order in used]
        expected = [np.mean(values), *np.quantile(values, [0.025, 0.975])]
        np.testing.assert_allclose([row.null_mean, row.null_low, row.null_high], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("null_steps", "expected"), [(None, {50, 100, 150, 200}), (2, {50, 200}), (1, {200}), (9, {50, 100, 150, 200})]
)
def test_the_null_is_computed_where_asked_and_always_at_the_last_step(fingerprints, null_steps, expected):
    rows = compare_fingerprints(fingerprints, shuffles=5, null_steps=null_steps)
    assert {row.step for row in rows if row.null_mean is not None} == expected
    assert all((row.null_low is None) == (row.null_mean is None) == (row.null_high is None) for row in rows)


def test_the_same_seed_gives_the_same_rows_and_another_another_null(fingerprints):
    rows = compare_fingerprints(fingerprints, shuffles=20, seed=1)
    assert rows == compare_fingerprints(fingerprints, shuffles=20, seed=1)
    other = compare_fingerprints(fingerprints, shuffles=20, seed=2)
    assert [row.value for row in rows] == [row.value for row in other]
    assert [row.null_mean for row in rows] != [row.null_mean for row in other]


def test_without_an_untrained_model_there_is_no_untrained_value(fingerprints):
    del fingerprints[42][0]
    rows = compare_fingerprints(fingerprints, shuffles=5)
    assert {(row.seed_a, row.seed_b) for row in rows if row.untrained is not None} == {(43, 44)}
    assert len(rows) == 36


def test_a_step_that_one_seed_lacks_is_compared_among_the_others(fingerprints):
    del fingerprints[43][200], fingerprints[42][150], fingerprints[43][150]
    rows = compare_fingerprints(fingerprints, shuffles=5)
    assert {(row.seed_a, row.seed_b) for row in rows if row.step == 200} == {(42, 44)}
    assert not [row for row in rows if row.step == 150]


@pytest.mark.parametrize("spoil", [np.nan, np.inf, "constant"])
def test_a_spoilt_fingerprint_gives_null_values_for_its_pairs_only(fingerprints, spoil):
    fingerprints[44][200] = np.ones((14, 6), np.float32) if spoil == "constant" else fingerprints[44][200] * spoil
    rows = [row for row in compare_fingerprints(fingerprints, shuffles=5) if row.step == 200]
    assert {(row.seed_a, row.seed_b) for row in rows if row.value is None} == {(42, 44), (43, 44)}
    assert all((row.value is None) == (row.null_mean is None) for row in rows)


@pytest.mark.parametrize("empty", [{}, {42: {}}, {42: {50: np.ones((5, 2), np.float32)}}])
def test_fewer_than_two_seeds_have_nothing_to_compare(empty):
    assert compare_fingerprints(empty) == []


def test_widths_may_differ_but_probes_may_not(fingerprints):
    fingerprints[42] = {step: array[:, :4] for step, array in fingerprints[42].items()}
    assert all(row.value is not None for row in compare_fingerprints(fingerprints, shuffles=5))
    fingerprints[43][100] = fingerprints[43][100][:10]
    with pytest.raises(ValueError, match=r"\(14, 4\) and \(10, 6\) cannot be compared: give one row per probe"):
        compare_fingerprints(fingerprints, shuffles=5)


def test_null_steps_must_leave_a_step(fingerprints):
    with pytest.raises(ValueError, match="null_steps = 0 leaves no step for the null: use at least 1"):
        compare_fingerprints(fingerprints, null_steps=0)
