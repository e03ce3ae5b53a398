"""Regimes: eq. 2 to the letter, no look-ahead by any method, hysteresis."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leapverify.observe.regimes import classify_regimes
from leapverify.observe.thresholds import PAPER_TAU_HIGH, PAPER_TAU_LOW, Thresholds

METHODS = [
    Thresholds.paper(),
    Thresholds.fixed(0.2, 0.8),
    Thresholds.percentile([0.1, 0.5, 0.9]),
    Thresholds.rate([0.1, 0.5, 0.9], [1.0, 1.0, 1.0]),
    Thresholds.online(warmup=3),
]
values = st.one_of(st.none(), st.just(math.nan), st.floats(-1, 1), st.floats(0.99, 1))
runs = st.lists(values, max_size=30)


def labelled(similarities, thresholds, **options):
    eta_sums = [0.5 + 0.1 * (i % 4) for i in range(len(similarities))]
    return classify_regimes(similarities, thresholds, eta_sums=eta_sums, **options)


@pytest.mark.parametrize("thresholds", METHODS, ids=lambda t: t.method)
@settings(max_examples=60)
@given(similarities=runs, cut=st.integers(0, 30), hysteresis=st.integers(1, 3))
def test_labels_of_a_prefix_are_the_prefix_of_the_labels(thresholds, similarities, cut, hysteresis):
    whole = labelled(similarities, thresholds, hysteresis=hysteresis)
    assert labelled(similarities[:cut], thresholds, hysteresis=hysteresis) == whole[:cut]
    assert len(whole) == len(similarities)
    assert set(whole) <= {"unknown", "chaotic", "transition", "stable"}


@pytest.mark.parametrize("thresholds", METHODS, ids=lambda t: t.method)
@settings(max_examples=30)
@given(similarities=runs)
def test_no_similarity_is_unknown_and_nan_is_chaotic(thresholds, similarities):
    labels = labelled(similarities, thresholds)
    for s, label in zip(similarities, labels, strict=True):
        if s is None:
            assert label == "unknown"
        elif math.isnan(s):
            assert label == "chaotic"


def test_equation_2_is_strict_on_both_sides():
    below, above = math.nextafter(PAPER_TAU_LOW, -1), math.nextafter(PAPER_TAU_HIGH, 2)
    similarities = [None, below, PAPER_TAU_LOW, PAPER_TAU_HIGH, above]
    wanted = ["unknown", "chaotic", "transition", "transition", "stable"]
    assert classify_regimes(similarities, Thresholds.paper()) == wanted


def test_percentiles_of_calibration_runs_label_the_shares_they_promise():
    calibration = np.random.default_rng(0).uniform(0.9, 1.0, 1000).tolist()
    labels = classify_regimes(calibration, Thresholds.percentile([None, math.nan, *calibration]))
    assert labels.count("chaotic") == labels.count("stable") == 300


def test_percentile_cut_points_are_numpys():
    thresholds = Thresholds.percentile([0.0, 0.1, 0.2, 0.3, 0.4], low=25, high=75)
    assert (thresholds.low, thresholds.high) == pytest.approx((0.1, 0.3))


def test_rate_does_not_see_a_learning_rate_that_halves_and_an_interval_that_doubles():
    angles = np.random.default_rng(1).uniform(0.01, 0.2, 50)
    similarities, etas = np.cos(angles).tolist(), [2.0] * 50
    thresholds = Thresholds.rate(similarities, etas)
    labels = classify_regimes(similarities, thresholds, eta_sums=etas)
    slower = np.cos(angles / 2).tolist()
    assert classify_regimes(slower, thresholds, eta_sums=[1.0] * 50) == labels
    assert {"chaotic", "transition", "stable"} == set(labels)
    fixed = Thresholds.percentile(similarities)
    assert classify_regimes(slower, fixed) != classify_regimes(similarities, fixed)


def test_rate_calls_the_fast_chaotic_and_the_slow_stable():
    thresholds = Thresholds.rate([math.cos(0.1), math.cos(0.2)], [1.0, 1.0], low=0, high=100)
    assert (thresholds.low, thresholds.high) == pytest.approx((0.1, 0.2))
    similarities = [math.cos(a) for a in (0.05, 0.15, 0.3)]
    assert classify_regimes(similarities, thresholds, eta_sums=[1.0] * 3) == ["stable", "transition", "chaotic"]


def test_an_interval_without_learning_rate_has_no_speed():
    thresholds = Thresholds.rate([0.1, 0.5, 0.9, 0.7], [1.0, 1.0, 1.0, 0.0])
    assert thresholds == Thresholds.rate([0.1, 0.5, 0.9], [1.0, 1.0, 1.0])
    assert classify_regimes([0.5, 0.5], thresholds, eta_sums=[None, 0.0]) == ["unknown", "unknown"]


def online_reference(similarities, warmup, width):
    labels = []
    for i in range(len(similarities)):
        x = np.log10(1 - np.array(similarities[: i + 1]))
        median = np.median(x)
        margin = width * 1.4826 * np.median(np.abs(x - median))
        chaotic, stable = x[-1] > median + margin, x[-1] < median - margin
        label = "chaotic" if chaotic else "stable" if stable else "transition"
        labels.append("unknown" if i < warmup else label)
    return labels


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), warmup=st.integers(2, 8), width=st.floats(0, 2))
def test_online_equals_its_formula(seed, warmup, width):
    similarities = (1 - 10 ** np.random.default_rng(seed).normal(-3, 1, 25)).tolist()
    thresholds = Thresholds.online(warmup=warmup, width=width)
    assert classify_regimes(similarities, thresholds) == online_reference(similarities, warmup, width)


def test_online_finds_all_three_on_a_run_that_settles():
    noise = np.random.default_rng(3).normal(0, 0.3, 60)
    similarities = (1 - 10 ** (-1 - np.arange(60) / 20 + noise)).tolist()
    labels = classify_regimes(similarities, Thresholds.online())
    assert labels[:5] == ["unknown"] * 5
    assert {"chaotic", "transition", "stable"} <= set(labels)


def test_one_broken_value_does_not_spoil_the_running_scale():
    clean = (1 - 10 ** np.random.default_rng(4).normal(-3, 0.5, 20)).tolist()
    broken = [*clean[:10], math.nan, None, *clean[10:]]
    labels = classify_regimes(broken, Thresholds.online())
    assert labels[10:12] == ["chaotic", "unknown"]
    assert labels[:10] + labels[12:] == classify_regimes(clean, Thresholds.online())


def test_online_takes_identical_fingerprints():
    assert classify_regimes([1.0] * 7, Thresholds.online())[5:] == ["transition", "transition"]


def test_hysteresis_waits_for_consecutive_checkpoints():
    low, mid, high = 0.1, 0.5, 0.9
    thresholds = Thresholds.fixed(0.2, 0.8)
    similarities = [None, low, low, high, low, high, mid, high, high, high]
    c, t, s, u = "chaotic", "transition", "stable", "unknown"
    assert classify_regimes(similarities, thresholds) == [u, c, c, s, c, s, t, s, s, s]
    assert classify_regimes(similarities, thresholds, hysteresis=2) == [u, u, c, c, c, c, c, c, s, s]
    assert classify_regimes(similarities, thresholds, hysteresis=3) == [u, u, u, u, u, u, u, u, u, s]


def test_missing_similarity_ends_a_label_at_once():
    thresholds = Thresholds.fixed(0.2, 0.8)
    wanted = ["unknown", "stable", "unknown", "unknown", "stable"]
    assert classify_regimes([0.9, 0.9, None, 0.9, 0.9], thresholds, hysteresis=2) == wanted


@settings(max_examples=60)
@given(similarities=runs, hysteresis=st.integers(2, 4))
def test_hysteresis_never_adds_changes(similarities, hysteresis):
    def changes(labels):
        return sum(a != b for a, b in zip(["unknown", *labels], labels, strict=False))

    quick = classify_regimes(similarities, Thresholds.paper())
    assert changes(classify_regimes(similarities, Thresholds.paper(), hysteresis=hysteresis)) <= changes(quick)


def test_bad_input():
    with pytest.raises(ValueError, match="hysteresis of 0 checkpoints changes no label ever: use 1 or more"):
        classify_regimes([0.5], Thresholds.paper(), hysteresis=0)
    rate = Thresholds.rate([0.1, 0.5], [1.0, 1.0])
    with pytest.raises(ValueError, match="2 similarities came with no eta sums: method rate needs one for each"):
        classify_regimes([0.5, 0.6], rate)
    with pytest.raises(ValueError, match="2 similarities came with 1 eta sums"):
        classify_regimes([0.5, 0.6], rate, eta_sums=[1.0])


def test_labels_and_thresholds_need_no_torch():
    import subprocess
    import sys

    code = "import sys, leapverify.observe.regimes, leapverify.observe.similarity; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
