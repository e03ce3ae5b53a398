"""Recognizer skill: exact at both ends, equal to counting pairs, and with a reason where it does not exist."""

import itertools
import random

import numpy as np
import pytest

from leapverify.analysis.study.skill import SIGNALS, lyapunov_correlation, recognizer_skill


@pytest.fixture
def study(checkpoint, prediction):
    """Three seeds; a prediction succeeds where the similarity is above 0.5; straightness is noise with ties."""
    rng = np.random.default_rng(0)
    checkpoints, predictions = [], []
    for seed, step in itertools.product((1, 2, 3), range(50, 1050, 50)):
        similarity = float(rng.random())
        at = {"seed": seed, "step": step}
        noise = float(rng.integers(0, 4))
        checkpoints.append(checkpoint(**at, similarity=similarity, similarity_centred=-similarity, straightness=noise))
        predictions += [
            prediction(**at, horizon=k, predictor=p, strict=similarity > 0.5) for p in ("b", "a") for k in (25, 5)
        ]
    return checkpoints, predictions


def only(rows, **wanted):
    (row,) = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
    return row


def test_a_perfect_signal_has_area_one_and_its_opposite_zero(study):
    rows = recognizer_skill(*study)
    perfect = only(rows, signal="similarity", predictor="a", horizon=5)
    assert (perfect.auc, perfect.low, perfect.high, perfect.reason) == (1.0, 1.0, 1.0, None)
    assert (perfect.n, perfect.seeds) == (60, 3)
    assert only(rows, signal="similarity_centred", predictor="a", horizon=5).auc == 0.0


def test_the_area_equals_counting_pairs_with_ties_half(study):
    checkpoints, predictions = study
    row = only(recognizer_skill(*study), signal="straightness", predictor="a", horizon=5)
    at = {(c.seed, c.step): c.straightness for c in checkpoints}
    chosen = [p for p in predictions if (p.predictor, p.horizon) == ("a", 5)]
    pairs = [
        (at[yes.seed, yes.step] > at[no.seed, no.step]) + 0.5 * (at[yes.seed, yes.step] == at[no.seed, no.step])
        for yes in chosen if yes.strict
        for no in chosen if not no.strict
    ]  # fmt: skip
    assert row.auc == pytest.approx(np.mean(pairs))
    assert row.low <= row.auc <= row.high
    assert row.successes == sum(p.strict for p in chosen)


def test_rows_are_signals_by_predictors_by_horizons(study):
    keys = [(row.signal, row.predictor, row.horizon) for row in recognizer_skill(*study)]
    assert keys == list(itertools.product(SIGNALS, ("b", "a"), (5, 25)))


def test_curvature_is_scored_by_its_size_with_small_as_predictable(checkpoint, prediction):
    checkpoints = [checkpoint(step=i, loss_curvature=c) for i, c in enumerate([-0.5, 0.4, -0.1, 0.05])]
    predictions = [prediction(step=i, strict=i >= 2) for i in range(4)]
    row = only(recognizer_skill(checkpoints, predictions), signal="loss_curvature")
    assert row.auc == 1.0
    assert (row.low, row.reason) == (None, "only 2 of 4 succeed: too few for an interval")


def test_the_clock_is_a_control_signal(checkpoint, prediction):
    checkpoints = [checkpoint(seed=s, step=i) for s in (1, 2) for i in range(4)]
    predictions = [prediction(seed=s, step=i, strict=i >= 2) for s in (1, 2) for i in range(4)]
    assert only(recognizer_skill(checkpoints, predictions), signal="step").auc == 1.0


def test_nonfinite_predictions_fail_and_declined_ones_do_not_count(checkpoint, prediction):
    checkpoints = [checkpoint(step=i, similarity=float(i)) for i in range(4)]
    blown = prediction(step=0, status="nonfinite", strict=None, loss_predicted=None)
    declined = prediction(step=3, status="declined", strict=None, loss_predicted=None)
    rows = [blown, prediction(step=1), prediction(step=2), declined]
    row = only(recognizer_skill(checkpoints, rows), signal="similarity")
    assert (row.auc, row.n, row.successes) == (1.0, 3, 2)


@pytest.mark.parametrize("gone", [None, float("nan"), float("inf")])
def test_checkpoints_without_the_signal_are_left_out(checkpoint, prediction, gone):
    checkpoints = [checkpoint(step=i, similarity=value) for i, value in enumerate([gone, 0.1, 0.9])]
    rows = [prediction(step=0), prediction(step=1, strict=False), prediction(step=2)]
    row = only(recognizer_skill(checkpoints, rows), signal="similarity")
    assert (row.auc, row.n) == (1.0, 2)


@pytest.mark.parametrize(
    ("changes", "signal", "reason"),
    [
        ({"strict": True}, 0.9, "all 2 succeed: there is nothing to rank"),
        ({"strict": False}, 0.9, "all 2 fail: there is nothing to rank"),
        ({"status": "declined"}, 0.9, "all 2 predictions declined"),
        ({}, None, "the signal or the verdict is missing at every checkpoint with a prediction"),
    ],
)
def test_a_missing_area_says_why(checkpoint, prediction, changes, signal, reason):
    checkpoints = [checkpoint(step=i, similarity=signal) for i in range(2)]
    row = only(recognizer_skill(checkpoints, [prediction(step=i, **changes) for i in range(2)]), signal="similarity")
    assert (row.auc, row.low, row.reason) == (None, None, reason)


def test_bad_input_is_refused(checkpoint, prediction):
    with pytest.raises(ValueError, match="unknown criterion 'lenient': choose one of strict"):
        recognizer_skill([], [], "lenient")
    with pytest.raises(ValueError, match="seed 1 predicts from step 50, which has no checkpoint"):
        recognizer_skill([checkpoint(step=100)], [prediction(step=50)])


def test_lyapunov_correlates_by_rank(checkpoint):
    rows = [checkpoint(seed=s, step=i, similarity=1 - 0.01 * i**2, lyapunov=0.1 * i) for s in (1, 2) for i in range(5)]
    found = lyapunov_correlation(rows)
    assert (found.rho, found.n, found.seeds, found.reason) == (pytest.approx(-1.0), 10, 2, None)
    assert found.low == pytest.approx(-1.0)
    assert found.high == pytest.approx(-1.0)


def test_a_missing_correlation_says_why(checkpoint):
    assert lyapunov_correlation([checkpoint()]).reason == "the Lyapunov pass was not asked for"
    flat = [checkpoint(step=i, lyapunov=0.1) for i in range(5)]
    assert "does not vary" in lyapunov_correlation(flat).reason
    one = [checkpoint(step=i, lyapunov=0.1 * i, similarity=0.1 * i) for i in range(5)]
    assert lyapunov_correlation(one).reason == "one seed has no interval over seeds"


def test_a_handful_of_successes_has_no_interval_however_many_seeds(checkpoint, prediction):
    checkpoints = [checkpoint(seed=seed, step=i, similarity=i / 10) for seed in range(4) for i in range(10)]
    for successes, expected in ((4, None), (5, float)):
        cells = [(seed, i) for seed in range(4) for i in range(10)]
        predictions = [prediction(seed=seed, step=i, strict=at < successes) for at, (seed, i) in enumerate(cells)]
        row = only(recognizer_skill(checkpoints, predictions), signal="similarity")
        assert (row.low is None) == (expected is None)
        assert row.successes == successes


def seeds_of(count, checkpoint, prediction, signal, hit):
    """Checkpoints and predictions of some seeds at ten steps each, by functions of (seed, step)."""
    cells = [(seed, step) for seed in range(count) for step in range(10)]
    checkpoints = [checkpoint(seed=s, step=t, similarity=signal(s, t)) for s, t in cells]
    return checkpoints, [prediction(seed=s, step=t, strict=hit(s, t)) for s, t in cells]


def test_a_signal_that_is_the_clock_run_backwards_does_not_beat_it(checkpoint, prediction):
    chance = random.Random(0)
    data = seeds_of(4, checkpoint, prediction, lambda s, t: -t / 10, lambda s, t: t + chance.gauss(0, 3) < 5)
    row = only(recognizer_skill(*data), signal="similarity")
    assert row.auc == pytest.approx(row.clock)
    assert row.auc > 0.6
    assert (row.beyond_clock, row.beyond_low, row.beyond_high) == pytest.approx((0.0, 0.0, 0.0))


def test_a_signal_that_knows_what_the_clock_does_not_beats_it(checkpoint, prediction):
    data = seeds_of(4, checkpoint, prediction, lambda s, t: (t + s) % 2, lambda s, t: (t + s) % 2 == 1)
    row = only(recognizer_skill(*data), signal="similarity")
    assert row.auc == 1.0
    assert row.clock < 0.6
    assert row.beyond_low > 0.3


def test_the_clock_is_scored_on_the_predictions_that_the_signal_has(checkpoint, prediction):
    data = seeds_of(3, checkpoint, prediction, lambda s, t: None if t < 5 else t / 10, lambda s, t: t in (0, 1, 9))
    rows = recognizer_skill(*data)
    assert only(rows, signal="similarity").clock == 1.0
    assert only(rows, signal="step").auc < 0.6
    assert only(rows, signal="step").clock is None
