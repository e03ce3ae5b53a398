"""Representational measures as theorems, and against slow references that share no code with them."""

import math

import numpy as np
import pytest
from jaxtyping import Float, jaxtyped
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group, spearmanr

from leapverify.analysis.study.geometry import (
    distance_of_product,
    linear_cka,
    procrustes_distance,
    rsa,
    unit_factor,
    unit_gram,
    unit_ranks,
)

MEASURES = [linear_cka, procrustes_distance, rsa]
WIDTHS = [(8, 8), (8, 5), (40, 40), (40, 3)]  # of 12 probes: narrower and wider than the number of probes


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def slow_cka(a, b):
    """Equation 1 of the source, entry by entry, with the centring matrix written out."""
    n = len(a)
    centring = np.eye(n) - np.ones((n, n)) / n

    def hsic(p, q):
        p, q = centring @ p @ centring, centring @ q @ centring
        return sum(p[i, j] * q[i, j] for i in range(n) for j in range(n))

    gram_a, gram_b = a @ a.T, b @ b.T
    return hsic(gram_a, gram_b) / math.sqrt(hsic(gram_a, gram_a) * hsic(gram_b, gram_b))


def slow_rsa(a, b):
    return spearmanr(pdist(a), pdist(b)).statistic


def slow_procrustes(a, b):
    """The best rotation is found and applied, and the residual measured."""
    width = max(a.shape[1], b.shape[1])
    a, b = (np.pad(x - x.mean(axis=0), ((0, 0), (0, width - x.shape[1]))) for x in (a, b))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    rotation, _ = orthogonal_procrustes(b, a)
    return np.linalg.norm(a - b @ rotation)


@pytest.mark.parametrize(("fast", "slow"), list(zip(MEASURES, [slow_cka, slow_procrustes, slow_rsa], strict=True)))
@pytest.mark.parametrize(("width_a", "width_b"), WIDTHS)
def test_the_fast_form_equals_the_slow_reference(fast, slow, width_a, width_b):
    a, b = normal(1, 12, width_a), normal(2, 12, width_b) + 3.0
    assert fast(a, b) == pytest.approx(slow(a, b), abs=1e-12)


def test_linear_cka_equals_its_feature_form():
    a, b = (x - x.mean(axis=0) for x in (normal(1, 12, 6), normal(2, 12, 7)))
    feature_form = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert linear_cka(a, b) == pytest.approx(feature_form, rel=1e-12)


@pytest.mark.parametrize("width", [5, 40])
def test_a_representation_is_itself(width):
    a = normal(1, 12, width)
    assert linear_cka(a, a) == pytest.approx(1.0, abs=1e-14)
    assert rsa(a, a) == pytest.approx(1.0, abs=1e-14)
    assert procrustes_distance(a, a) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("width", [5, 40])
def test_rotation_scale_and_shift_change_nothing(measure, width):
    a, b = normal(1, 12, width), normal(2, 12, width)
    moved = 7.0 * b @ ortho_group.rvs(width, random_state=3) + normal(4, width)
    assert measure(a, moved) == pytest.approx(measure(a, b), abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_stretch_of_one_dimension_does_change_the_measure(measure):
    a, b = normal(1, 12, 5), normal(2, 12, 5)
    assert abs(measure(a, b * np.array([9.0, 1, 1, 1, 1])) - measure(a, b)) > 1e-3


@pytest.mark.parametrize("measure", MEASURES)
def test_symmetry(measure):
    a, b = normal(1, 12, 5), normal(2, 12, 20)
    assert measure(a, b) == pytest.approx(measure(b, a), abs=1e-14)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_order_of_the_probes_is_of_no_account_as_long_as_it_is_the_same(measure):
    a, b, order = normal(1, 12, 5), normal(2, 12, 20), np.random.default_rng(3).permutation(12)
    assert measure(a[order], b[order]) == pytest.approx(measure(a, b), abs=1e-12)
    assert abs(measure(a, b[order]) - measure(a, b)) > 1e-4


@pytest.mark.parametrize(
    ("measure", "low", "high"), [(linear_cka, 0, 1), (procrustes_distance, 0, 2**0.5), (rsa, -1, 1)]
)
def test_bounds(measure, low, high):
    values = [measure(normal(seed, 6, 1 + seed % 9), normal(100 + seed, 6, 1 + seed % 4)) for seed in range(60)]
    assert low <= min(values) < max(values) <= high


def test_orthogonal_representations_are_as_far_apart_as_can_be():
    a, b = np.array([[1.0], [-1.0], [1.0], [-1.0]]), np.array([[1.0], [1.0], [-1.0], [-1.0]])
    assert linear_cka(a, b) == pytest.approx(0.0, abs=1e-15)
    assert procrustes_distance(a, b) == pytest.approx(math.sqrt(2.0))


def test_procrustes_obeys_the_triangle_inequality():
    # Points near each other, so that the inequality is close to being tight for some of them.
    points = [normal(0, 8, 4) + 0.3 * normal(seed, 8, 4) for seed in range(1, 9)]
    d = np.array([[procrustes_distance(a, b) for b in points] for a in points])
    detour = d[:, :, None] + d[None, :, :]  # from i over j to k
    assert (d[:, None, :] <= detour + 1e-7).all()
    assert (detour / d[:, None, :].clip(1e-9)).min() < 1.6


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_extreme_scales_neither_overflow_nor_vanish(measure, scale):
    a, b = normal(1, 12, 5), normal(2, 12, 5)
    assert measure(a * scale, b) == pytest.approx(measure(a, b), abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_half_precision_input_is_computed_in_float64(measure):
    a, b = normal(1, 12, 20).astype(np.float16), normal(2, 12, 20).astype(np.float32)
    assert measure(a, b) == measure(a.astype(np.float64), b.astype(np.float64))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("width", [5, 40])
@pytest.mark.parametrize("spoil", ["zero", "constant", "nan", "inf"])
def test_without_variation_or_finite_values_there_is_no_measure(measure, width, spoil):
    a, b = normal(1, 12, width), normal(2, 12, width)
    if spoil in {"zero", "constant"}:
        b[:] = 0.0 if spoil == "zero" else 0.1 + normal(3, width)  # 0.1: its mean over the probes is not exact
    else:
        b[3, 2] = float(spoil)
    assert math.isnan(measure(a, b))
    assert math.isnan(measure(b, a))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("shape_a", "shape_b", "message"),
    [
        ((12, 5), (11, 5), r"\(12, 5\) and \(11, 5\) cannot be compared: give one row per probe"),
        ((2, 5), (2, 5), "2 probes are too few .* at least 3"),
    ],
)
def test_bad_shapes_are_refused(measure, shape_a, shape_b, message):
    with pytest.raises(ValueError, match=message):
        measure(np.ones(shape_a), np.ones(shape_b))


@pytest.mark.parametrize("width", [5, 40])
def test_shapes_are_those_that_the_signatures_state(width):
    a, b = normal(1, 12, width), normal(2, 12, 7)
    with jaxtyped("context"):
        assert isinstance(a, Float[np.ndarray, "probes d"])
        assert isinstance(unit_gram(a), Float[np.ndarray, "probes probes"])
        assert isinstance(unit_ranks(a), Float[np.ndarray, "probes probes"])
        assert isinstance(unit_factor(a), Float[np.ndarray, "probes r_a"])
        assert isinstance(unit_factor(b), Float[np.ndarray, "probes r_b"])
        products = np.stack([unit_factor(a).T @ unit_factor(b)] * 3)
        assert isinstance(products, Float[np.ndarray, "3 r_a r_b"])
        assert isinstance(distance_of_product(products), Float[np.ndarray, "3"])


def test_a_wide_representation_is_reduced_to_the_number_of_probes():
    wide = normal(1, 12, 4000)
    factor = unit_factor(wide)
    assert factor.shape == (12, 12)
    spread = (wide - wide.mean(axis=0)) / np.linalg.norm(wide - wide.mean(axis=0))
    np.testing.assert_allclose(factor @ factor.T, spread @ spread.T, atol=1e-14)
