"""The fast nulls equal shuffling the rows and measuring anew; unrelated representations fall inside their null."""

import numpy as np
import pytest

from leapverify.analysis.study import null
from leapverify.analysis.study.geometry import linear_cka, procrustes_distance, rsa, unit_factor, unit_gram, unit_ranks
from leapverify.analysis.study.null import permutations, shuffled_distances, shuffled_products, summarise


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("width", [4, 30])
@pytest.mark.parametrize(("measure", "unit"), [(linear_cka, unit_gram), (rsa, unit_ranks)])
def test_shuffled_products_equal_measuring_shuffled_rows(measure, unit, width):
    fixed, moved, orders = [normal(1, 10, width), normal(2, 10, 6)], normal(3, 10, width), permutations(10, 15, seed=0)
    fast = shuffled_products(np.stack([unit(x) for x in fixed]), unit(moved), orders)
    slow = [[measure(x, moved[order]) for order in orders] for x in fixed]
    np.testing.assert_allclose(fast, slow, atol=1e-13)


@pytest.mark.parametrize("width", [4, 30])
def test_shuffled_distances_equal_measuring_shuffled_rows(width):
    a, b, orders = normal(1, 10, width), normal(2, 10, 6), permutations(10, 15, seed=0)
    slow = [procrustes_distance(a, b[order]) for order in orders]
    np.testing.assert_allclose(shuffled_distances(unit_factor(a), unit_factor(b), orders), slow, atol=1e-12)


def test_the_size_of_the_blocks_is_of_no_account(monkeypatch):
    fixed, moved = np.stack([unit_gram(normal(1, 10, 4))]), unit_gram(normal(2, 10, 4))
    orders = permutations(10, 15, seed=0)
    whole = shuffled_products(fixed, moved, orders)
    monkeypatch.setattr(null, "_BLOCK", 4 * 55)  # four shuffles of 55 pairs at a time: the last block is short
    np.testing.assert_allclose(shuffled_products(fixed, moved, orders), whole, atol=1e-15)


def test_permutations_are_permutations_and_follow_the_seed():
    orders = permutations(10, 50, seed=3)
    assert (np.sort(orders, axis=1) == np.arange(10)).all()
    assert len(np.unique(orders, axis=0)) > 45
    np.testing.assert_array_equal(orders, permutations(10, 50, seed=3))
    assert (orders != permutations(10, 50, seed=4)).any()


def test_permutations_leave_the_global_stream_alone():
    before = np.random.get_state()[1].copy()
    permutations(10, 5, seed=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_no_shuffles_are_refused():
    with pytest.raises(ValueError, match="shuffles = 0 gives no null distribution: use at least 1"):
        permutations(10, 0, seed=0)


def test_unrelated_representations_fall_inside_their_null_and_rotated_copies_outside():
    above = []
    orders = permutations(15, 99, seed=0)
    for seed in range(150):
        a, b = unit_gram(normal(seed, 15, 8)), unit_gram(normal(1000 + seed, 15, 8))
        above.append(np.vdot(a, b) > summarise(shuffled_products(a[None], b, orders)[0]).high)
    assert np.mean(above) < 0.08  # 2.5 % expected; 150 draws with p = 0.025 exceed 12 once in 10,000
    x = normal(1, 15, 8)
    rotated = x @ np.linalg.qr(normal(2, 8, 8))[0]
    assert linear_cka(x, rotated) > summarise(shuffled_products(unit_gram(x)[None], unit_gram(rotated), orders)[0]).high


def test_the_null_of_wide_representations_is_far_from_zero():
    # Why the null is needed: two unrelated wide representations look alike to linear CKA.
    a, b = unit_gram(normal(1, 20, 2000)), unit_gram(normal(2, 20, 2000))
    assert summarise(shuffled_products(a[None], b, permutations(20, 50, seed=0))[0]).low > 0.9


def test_the_summary_gives_mean_and_quantiles_or_says_why_not():
    found = summarise(np.arange(201.0))
    assert (found.mean, found.low, found.high, found.n, found.reason) == (100.0, 5.0, 195.0, 201, None)
    empty = summarise(np.array([1.0, np.nan]))
    assert (empty.mean, empty.low, empty.high, empty.n) == (None, None, None, 2)
    assert "constant or not finite" in empty.reason
