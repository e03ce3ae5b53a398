"""What stands beside a verdict, so that it says no more than its evidence."""

import functools

import pytest

from findings_records import by_eta, by_step, study, whole_set
from leapverify.claims.catalogue import CLAIMS
from leapverify.claims.evidence import BASE, Evidence
from leapverify.claims.rule import judge

survival = functools.partial(judge, CLAIMS["regimes-survive"])
standing_rate = functools.partial(judge, CLAIMS["regimes-at-constant-rate"])
loss_converges = functools.partial(judge, CLAIMS["loss-converges"])
stable_is_predictable = functools.partial(judge, CLAIMS["stable-is-predictable"])


def alone(**options) -> Evidence:
    return Evidence({BASE: study(**options)}, {})


def value(found, part: str) -> float:
    return next(quantity.found.value for quantity in found.beside if part in quantity.name)


def test_every_changed_run_is_also_compared_on_its_own():
    found = survival(whole_set(by_eta))
    alone = {quantity.name: quantity.found for quantity in found.beside if quantity.name.endswith(" alone")}
    per_run = [found for name, found in alone.items() if name.startswith("the difference that decides, in ")]
    assert len(per_run) == 4
    whole = found.bars[0].quantity.found
    assert sum(each.n for each in per_run) == whole.n
    assert sum(each.value * each.n for each in per_run) / whole.n == pytest.approx(whole.value)


def test_a_single_constant_rate_that_slows_down_is_not_hidden_by_the_mean():
    base, slow = study(by_step, seeds=range(4)), study(by_step, seeds=range(4), schedule="constant", peak=1e-4)
    fast = study(lambda *_: 0.05, seeds=range(4), schedule="constant")
    evidence = Evidence({BASE: base, "constant": fast, "constant-quarter": fast, "constant-sixteenth": slow}, {})
    found = standing_rate(evidence)
    assert found.verdict == "falls"
    assert "at eta = 0.0001 alone the fingerprints keep more than half" in " ".join(found.notes)
    assert "alone the fingerprints" not in " ".join(standing_rate(whole_set(by_eta)).notes)


def test_a_line_that_is_passed_before_training_shows_no_convergence():
    always = loss_converges(alone(val_loss=lambda seed, step: 2.0 + 0.005 * seed))
    drawn_together = loss_converges(alone(val_loss=lambda seed, step: 2.0 + 0.005 * seed * (50 if step == 50 else 1)))
    assert always.verdict == drawn_together.verdict == "stands"
    assert "shows no convergence" in always.notes[0]
    assert not any("shows no convergence" in note for note in drawn_together.notes)


def test_the_papers_own_two_regimes_are_compared_without_the_chaotic_ones():
    shares = {"stable": 0.9, "transition": 0.1, "chaotic": 0.95}

    def strictly(row, predictor, k, chance):
        share = 0.5 if predictor == "random" else shares.get(row.regime, 0.5)
        return {"strict": bool(chance.random() < share)}

    found = stable_is_predictable(alone(angle=by_step, judge=strictly, steps=2000))
    assert value(found, "linear, stable less transition, all horizons") == pytest.approx(0.8, abs=0.1)
    assert value(found, "stable less transition, all horizons, less random's") == pytest.approx(0.8, abs=0.2)
