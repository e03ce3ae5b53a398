"""Claims judged on records in which the answer is known."""

import dataclasses
import functools
import math

import pytest

from findings_records import HIGH, LOW, by_eta, by_step, pairs, study, unjudged, whole_set
from leapverify.claims.catalogue import CLAIMS, judge_findings
from leapverify.claims.evidence import (
    BASE,
    BFLOAT16,
    LARGER,
    PAPER_RATE,
    SHARED_INIT,
    Evidence,
)
from leapverify.claims.regimes import eta_cuts, regression
from leapverify.claims.rule import judge

JUDGES = {key: functools.partial(judge, claim) for key, claim in CLAIMS.items()}
survival = JUDGES["regimes-survive"]
standing_rate = JUDGES["regimes-at-constant-rate"]
scaling = JUDGES["regimes-scale"]
loss_converges = JUDGES["loss-converges"]
ensemble_collapses = JUDGES["ensemble-collapses"]
representations_converge = JUDGES["representations-converge"]
boundaries_coincide = JUDGES["boundaries-coincide"]
boundaries_stay = JUDGES["boundaries-are-the-landscape"]
momentum_explodes = JUDGES["momentum-explodes"]
state_is_unsuitable = JUDGES["state-is-unsuitable"]
stable_is_predictable = JUDGES["stable-is-predictable"]
regime_beyond_rate = JUDGES["regime-beyond-rate"]
proximity_tells = JUDGES["proximity-tells"]
depth_is_free = JUDGES["depth-is-free"]
not_rounding = JUDGES["not-rounding"]
similarity_recognizes = JUDGES["similarity-recognizes"]
nothing_better = JUDGES["nothing-better"]


def alone(**options) -> Evidence:
    return Evidence({BASE: study(**options)}, {})


def value(found, part: str) -> float:
    quantities = [bar.quantity for bar in found.bars] + list(found.beside)
    return next(quantity.found.value for quantity in quantities if part in quantity.name)


# Regimes


def test_labels_that_are_a_function_of_eta_delta_do_not_survive():
    evidence = whole_set(by_eta)
    assert survival(evidence).verdict == "falls"
    assert standing_rate(evidence).verdict == "falls"
    assert boundaries_stay(evidence).verdict == "falls"
    assert value(standing_rate(evidence), "constant rates keep") == pytest.approx(0.0, abs=0.02)
    slope, fit = (quantity.found.value for quantity in regression(evidence)[:2])
    assert slope == pytest.approx(1.0, abs=0.01)
    assert fit > 0.99


def test_labels_that_are_the_runs_own_survive():
    evidence = whole_set(by_step)
    assert survival(evidence).verdict == "stands"
    assert standing_rate(evidence).verdict == "stands"
    assert boundaries_stay(evidence).verdict == "stands"
    assert value(standing_rate(evidence), "constant rates keep") == pytest.approx(1.0, abs=0.05)


def test_what_explains_the_fallen_regimes_is_named_and_not_where_they_stand():
    assert "eta·Delta" in survival(whole_set(by_eta)).explains
    assert survival(whole_set(by_step)).explains == ""


def test_the_cut_points_of_eta_tell_labels_that_are_cut_by_eta():
    rows = study(lambda step, eta, seed: 2.4 * eta).settled
    low, high = eta_cuts(rows)
    told = ["stable" if row.eta_sum < low else "chaotic" if row.eta_sum > high else "transition" for row in rows]
    assert told == [row.regime for row in rows]


def test_two_seeds_decide_no_claim_at_all():
    evidence = whole_set(by_eta, seeds=range(2))
    assert {finding.verdict for finding in judge_findings(evidence)} == {"not decided"}


def test_without_the_changed_runs_nothing_is_decided_and_the_reason_is_given():
    found = survival(Evidence({BASE: study()}, {"rate-half": "failed: no loss"}))
    assert found.verdict == "not decided"
    assert "rate-half failed: no loss" in found.bars[0].quantity.text
    assert "interval-double was not run" in found.bars[0].quantity.text


def test_no_study_at_all_is_judged_without_a_verdict():
    found = judge_findings(Evidence({}, {}))
    assert {finding.verdict for finding in found} == {"not decided"}
    assert len({finding.key for finding in found}) == len(found) == 17
    # What it would take is said all the same.
    assert all(finding.rule.startswith("Stands if ") and finding.measured for finding in found)


def test_a_run_that_does_not_slow_down_says_so():
    found = standing_rate(whole_set(lambda step, eta, seed: 0.05 + 0.001 * math.sin(step + seed)))
    assert found.verdict == "not decided"
    assert "do not slow down" in found.bars[0].quantity.text


def test_scaling_compares_the_means_within_regimes():
    small = study()

    def stretched(step, eta, seed):
        angle = by_eta(step, eta, seed)
        return angle * (1.5 if math.cos(angle) < LOW else 0.5 if math.cos(angle) > HIGH else 1.0)

    wild = study(stretched)
    assert scaling(Evidence({BASE: small, LARGER: wild}, {})).verdict == "stands"
    assert scaling(Evidence({BASE: wild, LARGER: small}, {})).verdict == "falls"
    assert scaling(Evidence({BASE: small, LARGER: small}, {})).verdict == "not decided"


# Seeds


def losses(course):
    """Validation losses of 2 plus what the course says of (seed, step)."""
    return {"val_loss": lambda seed, step: 2.0 + course(seed, step)}


def test_a_small_spread_of_the_loss_converges_and_a_large_one_does_not():
    assert loss_converges(alone(**losses(lambda seed, step: 0.005 * seed))).verdict == "stands"
    assert loss_converges(alone(**losses(lambda seed, step: 0.3 * seed))).verdict == "falls"
    assert loss_converges(alone(**losses(lambda seed, step: 0.02 * seed))).verdict == "not decided"


def test_the_ensemble_collapses_only_if_the_end_is_closer_than_the_start():
    shrinking = alone(seeds=range(8), **losses(lambda seed, step: math.sin(seed) * 10 / step))
    growing = alone(seeds=range(8), **losses(lambda seed, step: math.sin(seed) * step / 1e4))
    assert ensemble_collapses(shrinking).verdict == "stands"
    assert ensemble_collapses(growing).verdict == "falls"


@pytest.mark.parametrize(
    ("cka", "untrained", "verdict"),
    [(0.97, 0.6, "stands"), (0.97, 0.98, "falls"), (0.7, 0.5, "falls")],
)
def test_representations_must_be_alike_and_more_so_than_untrained(cka, untrained, verdict):
    base = study(measures=pairs(range(6), cka, untrained, 0.1))
    shared = study(measures=pairs(range(6), 0.99, 0.99, 0.1))
    found = representations_converge(Evidence({BASE: base, SHARED_INIT: shared}, {}))
    assert found.verdict == verdict
    assert value(found, "CKA with one initialisation") == pytest.approx(0.99, abs=0.002)


def test_only_the_last_step_of_the_pairs_counts():
    rows = [*pairs(range(6), 0.2, 0.6, 0.1, step=100), *pairs(range(6), 0.97, 0.6, 0.1)]
    assert representations_converge(alone(measures=rows)).verdict == "stands"


def test_boundaries_coincide_within_fifty_steps_or_not():
    assert boundaries_coincide(alone(angle=lambda step, eta, seed: by_step(step, eta, 0))).verdict == "stands"

    def apart(step, eta, seed):
        return by_step(step - 130 * seed, eta, seed)

    assert boundaries_coincide(alone(angle=apart, seeds=range(8), steps=2000)).verdict == "falls"


def test_boundaries_that_the_schedule_sets_have_an_elasticity_of_one():
    found = boundaries_stay(whole_set(by_eta))
    assert value(found, "first stable step to the schedule") == pytest.approx(1.0, abs=0.15)
    one = value(found, "first stable step, one schedule for all")
    assert value(found, "first stable step, a length of its own") > 3 * max(one, 1.0)


# Predictions


def test_the_printed_momentum_explodes_and_the_recurrences_do_not():
    def judge(row, predictor, k, chance):
        ratio = {"momentum": 200.0 * k, "adam": 1.001}.get(predictor, 1.0)
        return {"loss_predicted": 2.0 * ratio * math.exp(0.05 * chance.standard_normal())}

    evidence = alone(judge=judge)
    assert momentum_explodes(evidence).verdict == "stands"
    assert state_is_unsuitable(evidence).verdict == "falls"
    assert value(momentum_explodes(evidence), "K = 5") == pytest.approx(1000, rel=0.05)


def test_if_the_recurrences_explode_too_the_state_is_to_blame():
    evidence = alone(judge=lambda row, predictor, k, chance: {"loss_predicted": 3.0 + chance.random()})
    assert state_is_unsuitable(evidence).verdict == "stands"
    # One and a half times the loss is no catastrophe.
    assert momentum_explodes(evidence).verdict == "falls"


def accepting(chances):
    """A judge that accepts with a probability: (checkpoint, predictor, K) -> share."""

    def judge(row, predictor, k, chance):
        return {"strict": bool(chance.random() < chances(row, predictor, k))}

    return judge


def test_acceptance_that_is_the_regimes_stands_and_is_more_than_the_rate():
    judge = accepting(lambda row, p, k: 0.5 if p == "random" else 0.95 if row.regime == "stable" else 0.1)
    evidence = whole_set(by_step, judge)
    assert stable_is_predictable(evidence).verdict == "stands"
    assert regime_beyond_rate(evidence).verdict == "stands"


def test_acceptance_that_a_random_step_shares_is_no_prediction():
    judge = accepting(lambda row, p, k: 0.95 if row.regime == "stable" else 0.1)
    found = stable_is_predictable(whole_set(by_step, judge))
    assert [bar.verdict for bar in found.bars] == ["stands", "falls"]
    assert found.verdict == "falls"


def test_acceptance_in_chaotic_checkpoints_makes_it_fall():
    judge = accepting(lambda row, p, k: 0.5 if p == "random" else 0.1 if row.regime == "stable" else 0.9)
    assert stable_is_predictable(whole_set(by_step, judge)).verdict == "falls"


def test_acceptance_that_follows_the_rate_is_not_the_regimes():
    def judge(row, predictor, k, chance):
        share = 0.5 - 0.12 * math.log(row.eta_sum / 0.02)
        # Evenly spread instead of drawn, so that the shares are what they should be.
        return {"strict": (0.618034 * (row.step / 25 + 7 * row.seed + k)) % 1.0 < share}

    found = regime_beyond_rate(whole_set(by_step, judge, seeds=range(8)))
    assert found.verdict == "falls"
    raw = value(found, "coefficient of stable for linear, beside the horizon")
    assert value(found, "beside log") < 0.05 < raw


def test_one_schedule_alone_cannot_tell_the_regime_from_the_rate():
    judge = accepting(lambda row, p, k: 0.95 if row.regime == "stable" else 0.1)
    found = regime_beyond_rate(alone(angle=by_step, judge=judge))
    assert found.verdict == "not decided"
    assert "rate-half was not run" in found.bars[0].quantity.text


def test_proximity_that_a_random_step_passes_tells_nothing():
    assert proximity_tells(alone(judge=lambda row, p, k, chance: {"proximity": True})).verdict == "falls"
    picky = alone(judge=lambda row, p, k, chance: {"proximity": p in ("hold", "linear")})
    assert proximity_tells(picky).verdict == "stands"


def test_depth_is_free_if_acceptance_holds_and_beats_a_random_step():
    flat = alone(judge=accepting(lambda row, p, k: 0.2 if p == "random" else 1.0), steps=2000, seeds=range(8))
    falling = alone(judge=accepting(lambda row, p, k: 0.5 if p == "random" else 1.0 if k == 5 else 0.2))
    lucky = alone(judge=accepting(lambda row, p, k: 1.0), seeds=range(8))
    assert depth_is_free(flat).verdict == "stands"
    assert depth_is_free(falling).verdict == "falls"
    # A step of any direction passes as often: nothing was predicted.
    assert depth_is_free(lucky).verdict != "stands"


def precisions(survival_share, spared):
    """float32 loses 60 points of acceptance over the horizons, bfloat16 less by what it spares."""

    def judged(lost):
        return accepting(lambda row, p, k: 1.0 if k == 5 else 1.0 - lost)

    full = study(judge=judged(0.6), update_survival=1.0, update_projection=1.0)
    half = study(judge=judged(0.6 - spared), update_survival=survival_share, update_projection=survival_share)
    return Evidence({PAPER_RATE: full, BFLOAT16: half}, {})


def test_updates_that_vanish_and_flatten_the_curve_are_rounding():
    assert not_rounding(precisions(lambda seed, step: 0.1 + 0.01 * math.sin(seed), 0.5)).verdict == "falls"
    assert not_rounding(precisions(lambda seed, step: 0.95 + 0.01 * math.sin(seed), -0.35)).verdict == "stands"


def test_without_a_record_of_survival_nothing_is_said_of_bfloat16():
    found = not_rounding(precisions(None, 0.5))
    assert found.verdict == "not decided"
    assert "update_survival was not recorded" in found.bars[1].quantity.text


# Recognizers


def ranking(signal):
    """Predictions succeed where the signal of (seed, step) is above its middle."""
    return {"judge": lambda row, p, k, chance: {"strict": signal(row.seed, row.step) > 0}}


def wave(seed, step):
    return math.sin(1.7 * step / 50 + seed)


def test_a_similarity_that_ranks_success_recognises():
    evidence = alone(
        angle=lambda step, eta, seed: 0.1 - 0.05 * wave(seed, step),
        straightness=lambda seed, step: math.cos(5.1 * step + 3 * seed),
        loss_curvature=lambda seed, step: math.cos(2.3 * step + seed),
        similarity_centred=0.5,
        seeds=range(8),
        **ranking(wave),
    )
    assert similarity_recognizes(evidence).verdict == "stands"
    assert nothing_better(evidence).verdict == "stands"


def better_straightness(seeds):
    return alone(
        angle=lambda step, eta, seed: 0.1 + 0.05 * math.cos(2.9 * step + seed),
        straightness=wave,
        seeds=seeds,
        **ranking(wave),
    )


def test_a_signal_that_ranks_better_makes_it_fall_if_there_are_seeds_enough():
    found = nothing_better(better_straightness(range(8)))
    assert found.verdict == "falls"
    assert "straightness" in found.beside[0].name
    # Four seeds have no p below 1/16, whatever they show.
    assert nothing_better(better_straightness(range(4))).verdict == "not decided"


def test_a_similarity_that_points_the_wrong_way_recognises_nothing():
    evidence = alone(angle=lambda step, eta, seed: 0.1 + 0.05 * wave(seed, step), **ranking(wave))
    assert similarity_recognizes(evidence).verdict == "falls"


def test_a_cell_without_failures_ranks_nothing():
    evidence = alone(judge=lambda row, p, k, chance: {"strict": True})
    found = similarity_recognizes(evidence)
    assert found.verdict == "not decided"
    assert "no predictor has successes and failures enough" in found.bars[0].quantity.text


# All


def test_nonfinite_predictions_are_rejections_and_declined_ones_are_not_there():
    base = study(judge=lambda row, p, k, chance: {"strict": True, "proximity": True})
    rows = [
        dataclasses.replace(row, status="nonfinite", loss_predicted=None, strict=False, proximity=False)
        if row.predictor == "linear"
        else dataclasses.replace(row, status="declined", strict=None, proximity=None)
        if row.predictor == "quadratic"
        else row
        for row in base.predictions
    ]
    found = stable_is_predictable(Evidence({BASE: dataclasses.replace(base, predictions=rows)}, {}))
    assert value(found, "strict acceptance of linear at K = 5, stable") == 0.0
    assert value(found, "strict acceptance of quadratic at K = 5, stable") is None


def test_every_claim_has_a_rule_a_control_and_a_place_in_the_paper():
    for found in judge_findings(whole_set(by_eta, unjudged, seeds=range(3))):
        assert found.claim.endswith(".")
        assert found.rule.startswith("Stands if ")
        assert found.rule.endswith("else not decided.")
        assert found.control
        assert "Table" in found.source or "section" in found.source
        assert found.measured
