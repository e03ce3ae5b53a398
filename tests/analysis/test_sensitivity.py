"""Sensitivity to the thresholds: at the recorded ones it gives the recorded results back."""

import itertools

import numpy as np
import pytest

from leapverify.analysis.study.acceptance import acceptance
from leapverify.analysis.study.agreement import agreement
from leapverify.analysis.study.sensitivity import relabel, threshold_grid, threshold_sensitivity
from leapverify.observe.regimes import classify_regimes
from leapverify.observe.thresholds import Thresholds

LOW, HIGH = 0.3, 0.7


@pytest.fixture
def study(checkpoint, prediction):
    rng = np.random.default_rng(0)
    checkpoints, predictions = [], []
    for seed, step in itertools.product((1, 2, 3), range(50, 1050, 50)):
        similarity = None if step == 50 else float(rng.random())
        at = {"seed": seed, "step": step, "regime": relabel(similarity, LOW, HIGH)}
        checkpoints.append(checkpoint(**at, similarity=similarity))
        predictions += [prediction(**at, predictor=p, strict=bool(rng.random() < 0.5)) for p in ("linear", "adam")]
    return checkpoints, predictions


@pytest.mark.parametrize(
    ("similarity", "label"),
    [(None, "unknown"), (0.1, "chaotic"), (0.3, "transition"), (0.5, "transition"), (0.7, "transition"),
     (0.71, "stable"), (float("nan"), "chaotic")],
)  # fmt: skip
def test_labels_follow_equation_2_with_strict_inequalities(similarity, label):
    assert relabel(similarity, LOW, HIGH) == label


def test_labels_are_those_of_the_recognizer():
    values = [None, *np.linspace(0.0, 1.0, 101).tolist(), LOW, HIGH, float("nan")]
    labels = classify_regimes(values, Thresholds.fixed(LOW, HIGH))
    assert [relabel(value, LOW, HIGH) for value in values] == labels


def test_at_the_recorded_thresholds_it_gives_the_recorded_results(study):
    checkpoints, predictions = study
    (point,) = threshold_sensitivity(checkpoints, predictions, [(LOW, HIGH)])
    recorded = agreement(checkpoints)
    assert (point.agreement.modal, point.agreement.unanimous) == (recorded.modal, recorded.unanimous)
    wanted = ("chaotic", "transition", "stable", "all")
    assert list(point.acceptance) == acceptance(predictions, "strict", regimes=wanted, predictors=["linear"])
    for regime, share in point.shares:
        assert share == sum(row.regime == regime for row in checkpoints) / 57
    assert point.n == 57


def test_shares_sum_to_one_and_move_with_the_thresholds(study):
    grid = [(low, high) for low in (0.1, 0.3, 0.5) for high in (0.5, 0.7, 0.9)]
    points = {(point.tau_low, point.tau_high): point for point in threshold_sensitivity(*study, grid)}
    assert list(points) == grid
    assert all(sum(share for _, share in point.shares) == pytest.approx(1.0) for point in points.values())
    assert points[0.1, 0.5].share("chaotic") < points[0.3, 0.5].share("chaotic") < points[0.5, 0.5].share("chaotic")
    assert points[0.1, 0.5].share("stable") > points[0.1, 0.7].share("stable") > points[0.1, 0.9].share("stable")


def test_every_prediction_lands_in_one_regime(study):
    for point in threshold_sensitivity(*study, [(0.1, 0.9), (0.4, 0.4)]):
        chaotic, transition, stable, together = point.acceptance
        assert together.n == 60
        assert chaotic.n + transition.n + stable.n == 57  # the first checkpoint of each seed is unknown


def test_an_empty_regime_says_why(study):
    (point,) = threshold_sensitivity(*study, [(-1.0, 2.0)])
    assert point.acceptance[2].reason == "no prediction was tried here"
    assert point.share("transition") == 1.0


def test_the_usual_grid_is_percentiles_in_order(study):
    grid = threshold_grid(study[0])
    assert len(grid) == 36
    assert all(low <= high for low, high in grid)
    known = [row.similarity for row in study[0] if row.similarity is not None]
    assert (float(np.percentile(known, 30)), float(np.percentile(known, 70))) in grid


def test_bad_input_is_refused(study, checkpoint):
    with pytest.raises(ValueError, match=r"thresholds \(0.9, 0.1\) leave no order: tau_low must not exceed tau_high"):
        threshold_sensitivity(*study, [(0.9, 0.1)])
    with pytest.raises(ValueError, match="no checkpoint has a similarity"):
        threshold_grid([checkpoint(similarity=None)])
