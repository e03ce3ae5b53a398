"""Acceptance rates and averages, by hand, against pandas, and with a reason in every empty cell."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

from leapverify.analysis.study.acceptance import QUANTITIES, acceptance, averages
from leapverify.analysis.vocabulary import CRITERIA
from leapverify.core.statistics import wilson


@pytest.fixture
def sweep(prediction):
    """Three seeds, three regimes, two predictors, two horizons; some declined, some not finite, some unreached."""
    rng = np.random.default_rng(0)
    rows = []
    for seed, step, predictor, horizon in itertools.product(
        (1, 2, 3), range(50, 1050, 50), ("linear", "adam"), (5, 25)
    ):
        status = rng.choice(["ok", "ok", "ok", "ok", "declined", "nonfinite"])
        outcome = {name: bool(rng.random() < 0.4) if status == "ok" else None for name in CRITERIA}
        if status == "nonfinite":
            outcome = dict.fromkeys(CRITERIA, False)
        rows.append(
            prediction(
                seed=seed, step=step, predictor=predictor, horizon=horizon, status=status,
                regime=["chaotic", "transition", "stable"][step % 3],
                loss_predicted=float(rng.normal(2.0)) if status == "ok" else None,
                gain_fraction=float(rng.normal()) if status == "ok" and rng.random() < 0.8 else None,
                **outcome,
            )
        )  # fmt: skip
    return rows


@pytest.mark.parametrize("criterion", CRITERIA)
def test_rates_equal_those_that_pandas_computes(sweep, criterion):
    frame = pd.DataFrame(map(dataclasses.asdict, sweep))
    judged = frame[frame.status != "declined"].assign(hit=lambda rows: rows[criterion].astype(float))
    cells = judged.groupby(["regime", "predictor", "horizon"])
    rates = acceptance(sweep, criterion)
    assert len(rates) == 3 * 2 * 2
    for rate in rates:
        rows = cells.get_group((rate.regime, rate.predictor, rate.horizon))
        per_seed = rows.groupby("seed").hit.mean()
        assert rate.mean == pytest.approx(per_seed.mean())
        assert rate.std == pytest.approx(per_seed.std())
        assert dict(rate.per_seed) == pytest.approx(per_seed.to_dict())
        assert (rate.n, rate.accepted, rate.seeds) == (len(rows), rows.hit.sum(), len(per_seed))
        assert rate.low <= rate.mean <= rate.high


@pytest.mark.parametrize("centre", ["mean", "median"])
@pytest.mark.parametrize("quantity", ["gain_fraction", "loss_predicted"])
def test_averages_equal_those_that_pandas_computes(sweep, quantity, centre):
    frame = pd.DataFrame(map(dataclasses.asdict, sweep))
    cells = frame[frame.status == "ok"].groupby(["regime", "predictor", "horizon"])
    for average in averages(sweep, quantity, centre=centre):
        values = cells.get_group((average.regime, average.predictor, average.horizon)).set_index("seed")[quantity]
        per_seed = values.dropna().astype(float).groupby("seed").agg(centre)
        assert average.mean == pytest.approx(per_seed.mean())
        assert (average.n, average.missing) == (values.notna().sum(), values.isna().sum())


def test_declined_is_left_out_and_nonfinite_is_rejected(prediction):
    rows = [
        prediction(step=50, strict=True),
        prediction(step=100, status="nonfinite", loss_predicted=None, strict=None, reason="inf in layer 1"),
        prediction(step=150, status="declined", loss_predicted=None, strict=None, reason="needs 3 snapshots"),
        prediction(step=200, strict=None),
    ]
    (rate,) = acceptance(rows, "strict")
    assert (rate.mean, rate.n, rate.accepted, rate.declined, rate.nonfinite, rate.unjudged) == (0.5, 2, 1, 1, 1, 1)


def test_each_seed_weighs_the_same_however_often_it_predicted(prediction):
    rows = [prediction(seed=1, strict=True)] + [
        prediction(seed=2, step=step, strict=False) for step in range(50, 500, 50)
    ]
    (rate,) = acceptance(rows, "strict")
    assert (rate.mean, rate.n) == (0.5, 10)


def test_all_regimes_together_hold_every_prediction(sweep):
    together = acceptance(sweep, "strict", regimes=["all"])
    apart = acceptance(sweep, "strict")
    for rate in together:
        parts = [part for part in apart if (part.predictor, part.horizon) == (rate.predictor, rate.horizon)]
        assert (rate.n, rate.accepted) == (sum(part.n for part in parts), sum(part.accepted for part in parts))


def test_cells_come_in_the_order_of_regimes_predictors_and_horizons(sweep):
    keys = [(rate.regime, rate.predictor, rate.horizon) for rate in acceptance(sweep, "strict")]
    assert keys == list(itertools.product(("chaotic", "transition", "stable"), ("linear", "adam"), (5, 25)))
    asked = acceptance(sweep, "strict", regimes=["stable"], predictors=["adam", "hold"], horizons=[25, 100])
    assert [(rate.predictor, rate.horizon) for rate in asked] == list(itertools.product(("adam", "hold"), (25, 100)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"regime": "chaotic"}, "no prediction was tried here"),
        ({"status": "declined", "reason": "needs 3 snapshots, has 2"}, "all 1 declined: needs 3 snapshots, has 2"),
        ({"status": "ok", "paired": None}, "none was judged by paired"),
    ],
)
def test_an_empty_rate_says_why(prediction, changes, reason):
    (rate,) = acceptance([prediction(**changes)], "paired", regimes=["stable"])
    assert (rate.mean, rate.low, rate.n, rate.reason) == (None, None, 0, reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "nonfinite", "loss_predicted": None}, "1 predictions, none finite"),
        ({"gain_fraction": None}, "gain_fraction does not exist for any of them"),
    ],
)
def test_an_empty_average_says_why(prediction, changes, reason):
    (average,) = averages([prediction(**changes)], "gain_fraction")
    assert (average.mean, average.n, average.reason) == (None, 0, reason)


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("gain", 0.5),
        ("loss_ratio", 0.75),
        ("loss_now", 2.0),
        ("steps_gained", 5),
        ("predict_s", 0.1),
        ("verify_s", 0.2),
    ],
)
def test_quantities(prediction, quantity, value):
    (average,) = averages([prediction(loss_now=2.0, loss_predicted=1.5)], quantity)
    assert (average.mean, average.quantity) == (value, quantity)


def test_every_quantity_exists_or_is_missing_for_a_bare_prediction(prediction):
    bare = prediction(loss_predicted=None, loss_actual=None, gain_fraction=None, steps_gained=None)
    assert all(averages([bare], name)[0].n + averages([bare], name)[0].missing == 1 for name in QUANTITIES)


def test_nothing_gives_nothing_unless_cells_are_asked_for():
    assert acceptance([], "strict") == []
    (rate,) = acceptance([], "strict", regimes=["stable"], predictors=["linear"], horizons=[5])
    assert rate.reason == "no prediction was tried here"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: acceptance([], "lenient"), "unknown criterion 'lenient': choose one of strict, adaptive"),
        (lambda: acceptance([], "strict", regimes=["calm"]), "unknown regime 'calm': choose one of unknown, chaotic"),
        (lambda: averages([], "joy"), "unknown quantity 'joy': choose one of gain_fraction"),
        (lambda: averages([], "gain", centre="mode"), "unknown centre 'mode': choose one of mean, median"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("verdict", [True, False])
def test_seeds_that_are_all_alike_get_the_interval_of_their_tries(prediction, verdict):
    rows = [prediction(seed=seed, step=step, strict=verdict) for seed in range(4) for step in range(5)]
    (rate,) = acceptance(rows, "strict")
    assert rate.mean == float(verdict)
    assert (rate.low, rate.high) == tuple(wilson(20 * verdict, 20))
    assert rate.high - rate.low > 0.1


def test_the_interval_of_a_rate_is_a_rate(prediction):
    verdicts = {1: [True] * 4, 2: [True, False, False, False], 3: [False] * 4}
    rows = [
        prediction(seed=seed, step=step, strict=verdict)
        for seed, of_seed in verdicts.items()
        for step, verdict in enumerate(of_seed)
    ]
    (rate,) = acceptance(rows, "strict")
    assert (rate.low, rate.high) == (0.0, 1.0)
