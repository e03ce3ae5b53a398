"""Published claims against made-up benches and races in which every answer is known."""

from dataclasses import replace

import pytest

from bench_records import DELTA, STEP_TOKENS, beside, row, without
from leapverify.analysis.bench.published import CLAIMS, claim_of
from leapverify.analysis.bench.rows import Bench, bench_of
from leapverify.analysis.bench.verdicts import (
    FAILS,
    HOLDS,
    NOT_RACED,
    OPEN,
    Judged,
    PublishedVerdict,
    Raced,
    judge_claims,
    raced,
)
from leapverify.predict import names
from race_records import of_arm

WITHOUT_A_CLAIM = {"hold", "random", "quadratic", "quadratic-paper", "quadratic-clamped", "momentum", "adam",
                   "adam-constant", "subspace", "subspace-layers"}  # fmt: skip
"""Controls, the paper's own forms and the package's."""


def bench(name: str = "lawa-5", task: str = "pretrain", seeds: int = 4, **changes: object) -> Bench:
    """A predictor that gains, passes and keeps, with a little spread, beside a random one that does not."""
    rows, beside_rows = [], []
    for seed in range(seeds):
        for step in (100, 150, 200, 250, 300, 350):
            spread = {"loss_predicted": 2.99 - 0.001 * seed, "steps_gained": 10 + seed}
            found = row(name, seed, step, **{**spread, **changes})
            null = row("random", seed, step, loss_predicted=3.1, strict=False, paired=False, steps_gained=0)
            rows += [found, null]
            beside_rows += [beside(found, 0.8 + 0.01 * seed), beside(null, None)]
    return bench_of(task, task, rows, beside_rows, interval_steps=DELTA, step_tokens=STEP_TOKENS)


def judged(found: Bench, races: dict[str, Raced] | None = None) -> Judged:
    (only,) = judge_claims(found, races)
    return only


def words(found: Judged) -> list[str]:
    return [found.lowers.word, found.beats_random.word, found.persists.word, found.pays.word]


def test_what_gains_passes_keeps_and_pays_holds():
    found = judged(bench())
    assert words(found) == [HOLDS] * 4
    assert found.verdict == found.lowers
    assert found.in_setting
    assert found.lowers.why == "+0.0115 nats; +0.0095 to +0.0135; n = 24, 4 seeds"


def test_what_harms_does_not():
    found = judged(bench(loss_predicted=3.2, strict=False, paired=False, steps_gained=0))
    assert found.lowers.word == FAILS
    # Both rates are 0 in every seed, so their own intervals decide, and overlap.
    assert found.beats_random.word == OPEN
    assert found.pays.word == FAILS


def test_two_seeds_decide_nothing():
    found = judged(bench(seeds=2))
    assert words(found) == [OPEN] * 4
    assert found.pays.why.endswith("n = 12, 2 of at least 3 seeds")


def rates(accepted: int, times: int, seeds: int = 4) -> Bench:
    """A predictor that `paired` accepts as often in every seed, beside a random one that it never accepts."""
    rows = [row(name, seed, 50 * (1 + number), paired=name == "linear" and number < accepted)
            for name in ("linear", "random") for seed in range(seeds) for number in range(times)]  # fmt: skip
    costs = [beside(found) for found in rows]
    return bench_of("a", "pretrain", rows, costs, interval_steps=DELTA, step_tokens=STEP_TOKENS)


def test_seeds_that_agree_to_rounding_make_no_interval_of_no_width():
    # 1 of 30 in each of four seeds, against none: an interval over seeds that is a rounding error wide says nothing.
    assert judged(rates(1, 30)).beats_random == PublishedVerdict(OPEN, "1 to 8 % against 0 to 3 %; n = 120, 4 seeds")
    assert judged(rates(8, 30)).beats_random.word == HOLDS
    assert judged(rates(8, 30, seeds=2)).beats_random.word == OPEN


def test_a_gain_after_which_training_diverges_does_not_persist():
    good = bench()
    rows = [tried.prediction for tried in good.tried]
    costs = [beside(found, 0.9 if found.strict else None) for found in rows]
    lost = [replace(cost, loss_leapt=None, persistence=None) if cost.seed == 2 and cost.persist_steps else cost
            for cost in costs]  # fmt: skip
    found = judged(bench_of("a", "pretrain", rows, lost, interval_steps=DELTA, step_tokens=STEP_TOKENS))
    assert found.persists == PublishedVerdict(FAILS, "after most of its leaps training diverged on 1 of 4 seeds")


def test_one_prediction_that_is_not_finite_breaks_what_is_applied_unverified():
    good = bench()
    rows = [tried.prediction for tried in good.tried] + [without("lawa-5", "nonfinite", "not finite", step=400)]
    costs = [beside(found, 0.8 if found.strict else None) for found in rows]
    found = judged(bench_of("a", "pretrain", rows, costs, interval_steps=DELTA, step_tokens=STEP_TOKENS))
    assert found.lowers == PublishedVerdict(FAILS, "1 of 25 predictions not finite")
    assert found.beats_random.word == HOLDS


def test_without_a_control_nothing_is_said_of_skill():
    found = row("linear")
    alone = bench_of("a", "lora", [found], [beside(found)], interval_steps=DELTA, step_tokens=STEP_TOKENS)
    assert judged(alone).beats_random == PublishedVerdict(OPEN, "random was not tried")


def test_a_claim_of_fewer_steps_is_decided_by_the_race_alone():
    assert judged(bench("fast-forward", "lora")).verdict == NOT_RACED
    arms = of_arm("always:fast-forward", [2.19, 2.18, 2.195, 2.19], real_steps=300)
    arms += of_arm("shortened:always:fast-forward", [2.21] * 4, real_steps=300)
    arms += of_arm("leap:fast-forward", [2.25, 2.26, 2.24, 2.25], real_steps=300)
    arms += of_arm("shortened:leap:fast-forward", [2.21] * 4, real_steps=300) + of_arm("baseline", [2.18] * 4)
    found = judged(bench("fast-forward", "pretrain"), raced(arms, "pretrain"))
    assert found.raced.unconditional.word == found.verdict.word == HOLDS
    assert found.raced.verified.word == FAILS
    assert found.raced.ends_lower.word == OPEN
    assert not found.in_setting
    assert raced(arms, "lora") == {}


def test_a_race_without_its_control_or_that_diverged_is_said():
    arms = of_arm("always:nino:/models/nino.pt", [2.2, 2.1, None], real_steps=300)
    arms += of_arm("shortened:always:nino:/models/nino.pt", [2.2] * 3, real_steps=300)
    arms += of_arm("leap:nino:/models/nino.pt", [2.2, 2.1, 2.2], real_steps=300)
    found = raced(arms, "pretrain")["nino"]
    assert found.unconditional == PublishedVerdict(FAILS, "1 of 3 seeds ended without a finite loss")
    assert found.verified == PublishedVerdict(OPEN, "its control was not run on 3 of 3 seeds")
    assert judged(bench("nino"), {"nino": found}).verdict == found.unconditional


def test_a_claim_of_a_lower_end_is_decided_against_the_baseline():
    arms = of_arm("always:lookahead", [2.10, 2.11, 2.12]) + of_arm("baseline", [2.2] * 3)
    assert judged(bench("lookahead"), raced(arms, "pretrain")).verdict.word == HOLDS


def test_a_claim_of_something_else_stays_open():
    assert judged(bench("xgrad")).verdict.why == "of something not measured here"
    assert judged(bench("subspace")).verdict == PublishedVerdict(OPEN, "nothing was claimed")


@pytest.mark.parametrize("name", names())
def test_every_published_predictor_has_its_claim(name):
    assert (claim_of(name) is None) == (name in WITHOUT_A_CLAIM)


@pytest.mark.parametrize(
    ("name", "source"),
    [("nino-mlp:nino_mlp_h32.pt", "Knyazev"), ("nino", "Knyazev"), ("taylor-7", "Kamarthi"), ("wnn:a.st", "Jang")],
)
def test_orders_and_files_share_the_claim_of_their_kind(name, source):
    found = claim_of(name)
    assert found is not None
    assert source in found.source


def test_every_claim_is_of_a_known_kind():
    assert {claim.kind for claim in CLAIMS} == {"loss", "steps", "end", "elsewhere"}
