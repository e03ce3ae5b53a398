"""What the bench makes of its rows: hand-made attempts whose worth is known exactly."""

import math
import statistics

import pytest

from bench_records import DELTA, KINDS, STEP_TOKENS, Kind, bench_rows, beside, row, without
from leapverify.analysis.bench.rows import Bench, bench_of
from leapverify.analysis.bench.values import ALL_HORIZONS, leaderboard, standing
from leapverify.io.records import Benched, Prediction


def made(pairs: list[tuple[Prediction, Benched]], **changes: object) -> Bench:
    options = {"interval_steps": DELTA, "step_tokens": STEP_TOKENS, **changes}
    predictions, benched = [list(side) for side in zip(*pairs, strict=True)]
    return bench_of("tiny", "pretrain", predictions, benched, **options)


def pair(name: str, persistence: float | None = 0.5, **changes: object) -> tuple[Prediction, Benched]:
    found = row(name, **changes)
    return found, beside(found, persistence)


def test_the_verified_value_is_the_accepted_steps_that_persist_less_the_cost_of_every_attempt():
    # Two attempts of half a step each; one is accepted, gains 10 steps and keeps half: (5 + 0)/2 - 0.5.
    bench = made([pair("linear"), pair("linear", None, step=150, paired=False)])
    found = standing(bench, "linear")
    assert found.verified_value.mean == pytest.approx(2.0)
    assert found.accepted.mean == 0.5
    assert found.cost_steps.mean == pytest.approx(0.5)
    assert found.steps_gained.mean == 10.0
    assert found.net_steps.mean == pytest.approx(9.5)
    assert found.n == found.verified_value.n == 2


@pytest.mark.parametrize(("kept", "steps"), [(-3.0, 0.0), (0.0, 0.0), (0.25, 2.5), (1.0, 10.0), (4.0, 10.0)])
def test_persistence_counts_between_nothing_and_all_but_is_shown_as_it_is(kept, steps):
    found = standing(made([pair("linear", kept)]), "linear")
    assert found.verified_value.mean == pytest.approx(steps - 0.5)
    assert found.persistence.mean == kept


def test_training_that_diverged_after_a_leap_kept_nothing_and_leaves_no_median():
    leapt = row("linear")
    bench = made([(leapt, beside(leapt, None, persist_steps=DELTA, loss_real=2.95)), pair("hold")])
    found = standing(bench, "linear")
    assert found.diverged == 1
    assert found.verified_value.mean == pytest.approx(-0.5)
    assert found.persistence.mean is None
    assert found.persistence.reason == "not finite: the median of 1 of 1 seeds"


def test_accepted_attempts_that_were_not_followed_are_stood_for_by_those_that_were():
    followed = [pair("linear", 0.5, step=100), pair("linear", None, step=150), pair("linear", None, step=200)]
    found = standing(made(followed), "linear")
    assert found.unmeasured == 2
    assert found.verified_value.mean == pytest.approx(4.5)
    never = standing(made([pair("linear", None)]), "linear")
    assert never.verified_value.reason == "the persistence of no accepted prediction was measured"
    both = standing(made([*followed, pair("linear", None, seed=2)]), "linear").verified_value
    assert (both.n, both.seeds) == (3, 1)


def test_nobody_stands_for_an_accepted_attempt_that_gained_no_step():
    followed, cost = pair("linear", 0.5, step=100)
    # At the last checkpoint nothing is left to gain; and `paired` reads on beyond the set that says L_hat.
    last = pair("linear", None, step=150, steps_gained=None, loss_actual=None)
    level = pair("linear", None, step=50, loss_predicted=3.0, strict=False, steps_gained=0)
    ended = pair("hold", None, step=100, loss_actual=2.9), pair("hold", None, step=150, loss_actual=None)
    found = standing(made([(followed, cost), last, level, *ended]), "linear")
    assert found.verified_value.mean == pytest.approx(10 * 0.5 / 3 - 0.5)
    assert found.unmeasured == 0
    alone = standing(made([level]), "linear")
    assert alone.verified_value.mean == pytest.approx(-0.5)


def test_an_attempt_without_acceptance_costs_what_it_costs():
    found = standing(made([pair("hold", None, loss_predicted=3.0, strict=False, paired=False, steps_gained=0)]), "hold")
    assert found.verified_value.mean == pytest.approx(-0.5)
    assert found.unconditional_value.mean == pytest.approx(0.2 * DELTA)


def test_steps_that_the_run_never_needed_count_as_those_it_had_left():
    last = row("hold", step=400, loss_actual=2.0)
    best = row("linear", step=150, loss_predicted=1.5, steps_gained=None)
    found = standing(made([(last, beside(last)), (best, beside(best, 1.0))]), "linear")
    assert found.beyond == 1
    assert found.steps_gained.mean == 400 + DELTA - 150


def test_the_unconditional_value_counts_harm_and_what_is_not_finite():
    rows = [row("linear", step=step, gain_fraction=share, paired=False) for step, share in ((50, -3.0), (100, 0.2))]
    rows.append(without("linear", "nonfinite", "the predicted weights are not finite", step=150))
    bench = made([(found, beside(found, None)) for found in rows])
    found = standing(bench, "linear")
    assert found.unconditional_value.mean == -3.0 * DELTA
    assert found.nonfinite == 1
    assert found.gain.n == 2
    worse = made([(found, beside(found, None)) for found in rows[1:]])
    assert standing(worse, "linear").unconditional_value.mean is None


def test_declined_is_no_attempt_and_the_commonest_reason_is_told_whatever_its_numbers():
    reasons = ["the rate is 0", "needs 5 snapshots, 1 is there", "needs 5 snapshots, 2 are there"]
    reasons += ["needs 5 snapshots, 2 are there"]
    rows = [without("rre", "declined", why, step=50 * index) for index, why in enumerate(reasons)]
    bench = made([(found, beside(found, None)) for found in rows] + [pair("rre", step=400)])
    found = standing(bench, "rre")
    assert (found.n, found.declined) == (1, 4)
    assert found.declined_reason == "needs 5 snapshots, 2 are there"
    assert found.accepted.mean == 1.0
    everything = standing(made([(found, beside(found, None)) for found in rows] + [pair("hold")]), "rre")
    assert everything.verified_value.reason == "all 4 declined: needs 5 snapshots, 2 are there"


def test_rows_that_repeat_one_measurement_count_once():
    rows = [row("lawa-5", horizon=horizon, gain_fraction=0.2 * 50 / horizon) for horizon in (5, 50, 100)]
    free = [(found, beside(found, 0.5, any_horizon=True)) for found in rows]
    bench = made([*free, pair("linear"), pair("linear", horizon=5)])
    for horizon in (None, 5, 100, ALL_HORIZONS):
        found = standing(bench, "lawa-5", horizon=horizon)
        assert found.n == 1
        assert found.unconditional_value.mean == pytest.approx(10.0)
    assert standing(bench, "linear").n == 1
    assert standing(bench, "linear", horizon=ALL_HORIZONS).n == 2


def test_the_headline_horizon_is_the_one_nearest_to_delta():
    pairs = [pair("linear", horizon=horizon) for horizon in (5, 25, 75)]
    assert made(pairs).headline_steps == 25
    assert made(pairs, interval_steps=60).headline_steps == 75


def test_intervals_are_over_seeds():
    pairs = [pair("linear", seed=seed, steps_gained=10 * seed) for seed in (1, 2, 3)]
    found = standing(made(pairs), "linear").verified_value
    values = [value for _, value in found.per_seed]
    assert values == pytest.approx([4.5, 9.5, 14.5])
    # Student's interval of three seeds.
    reach = 4.302652729749464 * statistics.stdev(values) / math.sqrt(3)
    assert found.high - found.mean == pytest.approx(reach, rel=0.05)


def test_regimes_part_the_attempts():
    bench = made([pair("linear"), pair("linear", step=150, regime="chaotic", paired=False)])
    assert bench.regimes == ("chaotic", "stable")
    assert standing(bench, "linear", regime="chaotic").accepted.mean == 0.0
    assert standing(bench, "linear", regime="stable").accepted.mean == 1.0
    assert standing(bench, "linear", regime="stable").accepted.regime == "stable"
    assert standing(bench, "linear").n == 2
    assert standing(bench, "linear", regime="transition").verified_value.reason == "not tried here"


def test_the_leaderboard_ranks_by_the_lower_bound_and_ties_share_a_place():
    def of(name: str, gains: tuple[int, ...], **changes: object) -> list[tuple[Prediction, Benched]]:
        return [pair(name, 1.0, seed=seed, steps_gained=gain, **changes) for seed, gain in enumerate(gains)]

    rows = [*of("wild", (5, 20, 60)), *of("steady", (10, 11, 12)), *of("twin", (10, 11, 12))]
    rows += [*of("hold", (0, 0, 0), paired=False), *of("worst", (0, 0, 0), paired=False)]
    places = leaderboard(made(rows))
    assert [place.predictor for place in places] == ["steady", "twin", "hold", "worst", "wild"]
    assert [place.rank for place in places] == [1, 1, None, 3, 4]
    two = leaderboard(made([found for found in rows if found[0].seed < 2]))
    assert two[0].predictor == "wild"


def test_what_is_missing_or_twice_is_refused():
    one, cost = pair("linear")
    options = {"interval_steps": DELTA, "step_tokens": STEP_TOKENS}
    with pytest.raises(ValueError, match="holds no prediction: give the bench command again"):
        bench_of("tiny", "pretrain", [], [], **options)
    with pytest.raises(ValueError, match="no cost for seed 1, step 100, linear, K = 50"):
        bench_of("tiny", "pretrain", [one], [], **options)
    with pytest.raises(ValueError, match="seed 1, step 100, linear, K = 50 twice"):
        bench_of("tiny", "pretrain", [one, one], [cost], **options)
    with pytest.raises(ValueError, match="a training step of 0 forward tokens"):
        bench_of("tiny", "pretrain", [one], [cost], interval_steps=DELTA, step_tokens=0)
    never = without("rre", "declined", "needs 5 snapshots")
    assert standing(bench_of("tiny", "pretrain", [never], [], **options), "rre").declined == 1


def test_a_whole_bench_ranks_what_keeps_its_gain_above_what_loses_it():
    names = ("hold", "random", "linear", "lawa-5", "ema-extrapolate", "nino")
    kinds = {name: KINDS[name] for name in names} | {"useless": Kind(0.9, kept=0.0)}
    predictions, benched = bench_rows(kinds, (1, 2, 3), 400, (10, 50))
    bench = bench_of("tiny", "pretrain", predictions, benched, interval_steps=DELTA, step_tokens=STEP_TOKENS)
    ranks = {place.predictor: place.rank for place in leaderboard(bench)}
    assert ranks["ema-extrapolate"] == 1
    assert ranks["lawa-5"] < ranks["useless"]
    assert ranks["hold"] is ranks["random"] is None
