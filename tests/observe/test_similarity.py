"""Similarity: bounds, symmetry, invariances, and a slow float64 reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leapverify.observe.similarity import similarity

KINDS = ["concatenated", "per-probe", "centred"]


def pair(seed: int, n: int = 6, d: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(1.0, 1.0, (n, d)), rng.normal(1.0, 1.0, (n, d))


def cosine(x: list[float], y: list[float]) -> float:
    return math.fsum(p * q for p, q in zip(x, y, strict=True)) / math.sqrt(
        math.fsum(p * p for p in x) * math.fsum(q * q for q in y)
    )


def slow(a: np.ndarray, b: np.ndarray, kind: str) -> float:
    if kind == "per-probe":
        return math.fsum(cosine(x.tolist(), y.tolist()) for x, y in zip(a, b, strict=True)) / len(a)
    if kind == "centred":
        mean = np.array([math.fsum([*a[:, j], *b[:, j]]) / (2 * len(a)) for j in range(a.shape[1])])
        a, b = a - mean, b - mean
    return cosine(a.flatten().tolist(), b.flatten().tolist())


seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(seed=seeds, scale=st.floats(1e-3, 1e3))
def test_bounds_symmetry_scale_and_reference(kind, seed, scale):
    a, b = pair(seed)
    s = similarity(a, b, kind)
    assert -1.0 <= s <= 1.0
    assert s == pytest.approx(slow(a, b, kind), abs=1e-14)
    assert similarity(b, a, kind) == pytest.approx(s, abs=1e-14)
    assert similarity(scale * a, scale * b, kind) == pytest.approx(s, abs=1e-12)
    assert similarity(a, a, kind) == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("kind", ["concatenated", "per-probe"])
def test_raw_cosines_do_not_see_the_scale_of_either_side(kind):
    a, b = pair(1)
    assert similarity(1e3 * a, 1e-3 * b, kind) == pytest.approx(similarity(a, b, kind), abs=1e-12)
    assert similarity(a, -a, kind) == pytest.approx(-1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_rotating_the_hidden_space_and_reordering_probes_change_nothing(kind):
    a, b = pair(2)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))
    order = np.random.default_rng(1).permutation(len(a))
    assert similarity((a @ rotation)[order], (b @ rotation)[order], kind) == pytest.approx(similarity(a, b, kind))


def test_only_centring_removes_a_common_mean():
    a, b = pair(3)
    shift = np.full(5, 100.0)
    assert similarity(a + shift, b + shift, "centred") == pytest.approx(similarity(a, b, "centred"), abs=1e-10)
    assert similarity(a, b) < 0.9
    assert similarity(a + shift, b + shift) > 0.999


def test_centring_keeps_a_move_that_all_probes_share():
    a, _ = pair(4)
    assert similarity(a, a + 3.0, "centred") < 0.5


def test_concatenated_weighs_probes_by_their_norm_and_per_probe_does_not():
    a = np.array([[10.0, 0.0], [1.0, 0.0]])
    b = np.array([[10.0, 0.0], [0.0, 1.0]])
    assert similarity(a, b, "concatenated") == pytest.approx(100 / 101)
    assert similarity(a, b, "per-probe") == pytest.approx(0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_and_arrays_agree(kind):
    a, b = (x.astype(np.float32) for x in pair(5))
    tensors = torch.tensor(a, requires_grad=True), torch.tensor(b)
    assert similarity(*tensors, kind) == similarity(a, b, kind)
    assert similarity(torch.tensor(a).bfloat16(), torch.tensor(b).bfloat16(), kind) == pytest.approx(
        similarity(a, b, kind), abs=0.02
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_give_nan(kind, value):
    a, b = pair(6)
    a[2, 3] = value
    assert math.isnan(similarity(a, b, kind))
    assert math.isnan(similarity(b, a, kind))


def test_a_zero_vector_has_no_direction():
    a, _ = pair(7)
    assert math.isnan(similarity(np.zeros_like(a), a))
    assert math.isnan(similarity(np.vstack([a[:-1], np.zeros(5)]), a, "per-probe"))
    assert not math.isnan(similarity(np.vstack([a[:-1], np.zeros(5)]), a))


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_squares_neither_overflow_nor_vanish(scale):
    a, b = pair(8)
    assert similarity(scale * a, scale * b) == pytest.approx(similarity(a, b))


def test_float32_inputs_are_accumulated_in_float64():
    rng = np.random.default_rng(9)
    a = rng.normal(size=(100, 512)).astype(np.float32)
    b = (a + 1e-5 * rng.normal(size=a.shape)).astype(np.float32)
    assert similarity(a, b) == pytest.approx(slow(a.astype(float), b.astype(float), "concatenated"), abs=1e-15)


def test_bad_input():
    a, b = pair(10)
    with pytest.raises(ValueError, match=r"shapes \(6, 5\) and \(5, 5\) differ: compare the same probes and layer"):
        similarity(a, b[:5])
    with pytest.raises(ValueError, match=r"shape \(30,\) is not \(probes, d\)"):
        similarity(a.ravel(), b.ravel())
    with pytest.raises(ValueError, match=r"'euclid' is unknown: use one of concatenated, per-probe, centred"):
        similarity(a, b, "euclid")
