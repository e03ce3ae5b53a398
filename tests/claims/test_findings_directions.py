"""Representations without the direction of greatest variance: what one shared direction can hide."""

import numpy as np
import pytest

from leapverify.analysis.study.geometry import linear_cka
from leapverify.claims.evidence import BEYOND_FIRST, FIRST_DIRECTION, beyond_first, without_first


def rotation(chance, d):
    return np.linalg.qr(chance.standard_normal((d, d)))[0]


def one_shared(chance, shared, size=20.0, d=8):
    """A fingerprint with one large direction that all have and noise of its own, in axes of its own."""
    own = chance.standard_normal((len(shared), d))
    own[:, 0] = size * shared
    return own @ rotation(chance, d)


def test_what_is_left_is_orthogonal_to_the_first_direction_and_the_share_is_its_variance():
    chance = np.random.default_rng(0)
    x = chance.standard_normal((40, 6)) * np.array([5, 2, 1, 1, 1, 1]) + 3.0
    rest, share = without_first(x)
    sizes = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    assert share == pytest.approx(sizes[0] ** 2 / (sizes**2).sum())
    assert np.linalg.svd(rest, compute_uv=False)[:5] == pytest.approx(sizes[1:])
    assert without_first(np.ones((5, 3)))[1] is None


def test_one_shared_direction_makes_cka_large_and_nothing_of_the_rest():
    chance = np.random.default_rng(1)
    shared = chance.standard_normal(100)
    prints = {seed: {0: chance.standard_normal((100, 8)), 500: one_shared(chance, shared)} for seed in (1, 2, 3)}
    assert linear_cka(prints[1][500], prints[2][500]) > 0.95
    rows = beyond_first(prints)
    pairs = [row for row in rows if row.measure == BEYOND_FIRST]
    assert [(row.seed_a, row.seed_b) for row in pairs] == [(1, 2), (1, 3), (2, 3)]
    assert all(row.value < 0.3 and row.untrained < 0.3 and row.step == 500 for row in pairs)
    assert [row.value > 0.9 for row in rows if row.measure == FIRST_DIRECTION] == [True] * 3


def test_equal_up_to_rotation_stays_equal():
    chance = np.random.default_rng(2)
    x = chance.standard_normal((50, 8)) * np.arange(1, 9)
    rows = beyond_first({1: {50: x}, 2: {50: x @ rotation(chance, 8), 100: x}})
    # The last common step; without an untrained model there is nothing to say of it.
    assert [(row.value, row.untrained) for row in rows if row.measure == BEYOND_FIRST] == [(pytest.approx(1.0), None)]


def test_without_a_trained_step_in_common_there_is_nothing():
    assert beyond_first({}) == []
    assert beyond_first({1: {0: np.ones((4, 2))}}) == []
