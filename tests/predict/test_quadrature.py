"""Quadrature: Gauss rules are exact to their degree, and compressed sums equal the long ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leapverify.predict.quadrature import TOLERANCE, compress, gauss


def measure(taken: int, horizon: int, beta1: float = 0.9, beta2: float = 0.999) -> tuple[np.ndarray, np.ndarray]:
    i = np.arange(1, horizon + 1)
    return np.sqrt(beta2**i / (1 - beta2 ** (taken + i))), 1e-3 * beta1**i / (1 - beta1 ** (taken + i))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("taken", [1, 100, 5000])
def test_gauss_rules_are_exact_to_degree_2n_minus_1(count: int, taken: int) -> None:
    nodes, weights = measure(taken, 60)
    few, shares = gauss(nodes, weights, count)
    assert len(few) == count
    assert (shares > 0).all()
    assert nodes.min() <= few.min()
    assert few.max() <= nodes.max()
    centre, spread = nodes.mean(), np.ptp(nodes)
    for power in range(2 * count):
        exact = weights @ ((nodes - centre) / spread) ** power
        assert shares @ ((few - centre) / spread) ** power == pytest.approx(exact, rel=1e-9, abs=1e-12)


def test_fewer_distinct_nodes_than_asked_give_all_of_them() -> None:
    few, shares = gauss(np.array([2.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0]), 3)
    np.testing.assert_allclose(few, [2, 3], rtol=1e-12)
    np.testing.assert_allclose(shares, [3, 4], rtol=1e-12)


@settings(max_examples=80)
@given(
    taken=st.integers(1, 20_000),
    horizon=st.integers(1, 300),
    beta1=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    beta2=st.sampled_from([0.6, 0.95, 0.999, 0.9999]),
    eps=st.sampled_from([0.0, 1e-15, 1e-8, 1e-2]),
)
def test_compressed_sums_equal_the_long_ones_for_any_root(
    taken: int, horizon: int, beta1: float, beta2: float, eps: float
) -> None:
    nodes, weights = measure(taken, horizon, beta1, beta2)
    few, shares = compress(nodes, weights, eps)
    assert len(few) <= max(1, np.count_nonzero(weights))
    roots = np.concatenate([np.logspace(-22, 4, 200), [0.0] if eps else []])[:, None]
    exact = (weights / (nodes * roots + eps)).sum(axis=1)
    got = (shares / (few * roots + eps)).sum(axis=1)
    np.testing.assert_allclose(got, exact, rtol=1.5 * TOLERANCE)


def test_two_nodes_do_once_training_is_under_way() -> None:
    for horizon in (5, 25, 100):
        nodes, weights = measure(1000, horizon)
        assert len(compress(nodes, weights, 1e-8)[0]) <= 2


def test_negative_weights_are_kept_as_they_are() -> None:
    nodes, weights = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, -1.0, 0.0, 1.0])
    few, shares = compress(nodes, weights, 1e-8)
    assert few.tolist() == [1, 2, 4]
    assert shares.tolist() == [1, -1, 1]


def test_no_weights_give_no_nodes() -> None:
    few, shares = compress(np.array([1.0, 2.0]), np.zeros(2), 1e-8)
    assert len(few) == len(shares) == 0
