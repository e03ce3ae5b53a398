"""The claims about seeds: do they converge, in loss and in representation, and at the same steps?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean, stdev

import numpy as np

from leapverify.analysis.study.pairs import mean_over_pairs
from leapverify.analysis.study.seeds import first_entries
from leapverify.claims.evidence import (
    BASE,
    BEYOND_FIRST,
    FIRST_DIRECTION,
    LENGTHS,
    SHARED_INIT,
    Evidence,
    Records,
    common_seeds,
)
from leapverify.claims.regimes import STRONG_READING
from leapverify.claims.rule import (
    Bar,
    ClaimResult,
    Estimate,
    Quantity,
    estimate,
    finding,
    mean_over_seeds,
    nothing,
    spread_over_seeds,
)
from leapverify.io.records import Checkpoint, SeedMeasure

CV_OF_THE_PAPER = 0.025
"""Less than 2.5 % at all scales."""
NEARLY_IDENTICAL = 0.9
"""Of linear CKA; the paper says near-identical and gives no number, this is the reading of it here."""
STD_OF_THE_PAPER = 50.0
"""Steps: "synchronized to within ± 50 steps"."""
ENTERED = ("transition", "stable")


def seed_findings(evidence: Evidence) -> list[ClaimResult]:
    """The claims of section 4."""
    return [
        loss_converges(evidence),
        ensemble_collapses(evidence),
        representations_converge(evidence),
        boundaries_coincide(evidence),
        boundaries_stay(evidence),
    ]


def loss_converges(evidence: Evidence) -> ClaimResult:
    """Table 3."""
    cv = _cv(evidence.get(BASE), -1, evidence.why(BASE))
    shared = _cv(evidence.get(SHARED_INIT), -1, evidence.why(SHARED_INIT))
    first = _cv(evidence.get(BASE), 0, evidence.why(BASE))
    name = "coefficient of variation of the final validation loss"
    return finding(
        "loss-converges",
        "Independently initialised seeds end at nearly the same validation loss (CV below 2.5 %).",
        "Table 3, section 4.1",
        "the spread at the first checkpoint, when nothing has converged; and seeds that differ in their batches only "
        "(shared initialisation)",
        [Bar(Quantity(f"{name}, independent seeds", cv, "losses", ".2f", 100, " %"), CV_OF_THE_PAPER, above=False)],
        explains="none found: the losses differ more than the paper's",
        beside=[
            Quantity("the same at the first checkpoint", first, "losses", ".2f", 100, " %"),
            Quantity(f"{name}, shared initialisation", shared, "losses", ".2f", 100, " %"),
        ],
        notes=[
            *_passed_before(first),
            "Equal losses say nothing of equal weights or representations. By its interval the paper itself passes at "
            "124M only: 2.43 % of 4 seeds and 1.53 % of 5 reach up to 9.1 and 4.4 %.",
        ],
    )


def _passed_before(first: Estimate) -> Iterator[str]:
    """That a line which is passed before anything converged shows no convergence."""
    if first.high is not None and first.high < CV_OF_THE_PAPER:
        yield (
            "The first checkpoint passes the same line by its whole interval: that the last one does shows no "
            "convergence (the next claim asks for that)."
        )


def ensemble_collapses(evidence: Evidence) -> ClaimResult:
    """Section 4.4."""
    base, why = evidence.get(BASE), evidence.why(BASE)
    ratio = nothing(why)
    if base:
        ratio = estimate(list(_courses(base).values()), _collapse, 2 * len(base.seeds)).through(math.exp)
    first = Quantity("CV at the first checkpoint", _cv(base, 0, why), "losses", ".2f", 100, " %")
    return finding(
        "ensemble-collapses",
        "Seeds that disagree early are drawn together: the spread of the loss shrinks as training goes on (ensemble "
        "collapse).",
        "section 4.4",
        "the spread at the first checkpoint, before there was time to converge: untrained models lose alike, too",
        [Bar(Quantity("CV at the last checkpoint over CV at the first", ratio, "losses", ".2f", 1, " times"), 1.0,
             above=False)],
        explains="the starting point: models that have hardly trained lose alike, and a spread measured from its peak "
        "can only fall (the paper's own 7B figures are 0.73 % at step 50 and 1.53 % at the end)",
        beside=[first, Quantity("largest CV of any checkpoint", _peak(base, why), "losses", ".2f", 100, " %")],
        notes=["The paper measures from the peak at step 250 (35.8 %, one seed); from its first checkpoint its own CV "
               "grows."],
    )  # fmt: skip


Course = Sequence[Checkpoint]


def _courses(study: Records) -> dict[int, list[Checkpoint]]:
    """Seed -> its checkpoints in order."""
    rows = sorted(study.checkpoints, key=lambda row: row.step)
    return {seed: [row for row in rows if row.seed == seed] for seed in study.seeds}


def _cv_at(courses: Sequence[Course], place: int) -> float | None:
    losses = [course[place].val_loss for course in courses]
    # A seed drawn with itself alone has no spread.
    if len(set(losses)) < 2 or not np.isfinite(losses).all():
        return None
    return stdev(losses) / fmean(losses)


def _cv(study: Records | None, place: int, why: str) -> Estimate:
    if study is None:
        return nothing(why)
    losses = [course[place].val_loss for course in _courses(study).values()]
    return spread_over_seeds(losses, relative=True)


def _collapse(courses: Sequence[Course]) -> float | None:
    last, first = _cv_at(courses, -1), _cv_at(courses, 0)
    return math.log(last / first) if last and first else None


def _peak(study: Records | None, why: str) -> Estimate:
    if study is None:
        return nothing(why)
    courses = list(_courses(study).values())
    found = [cv for place in range(min(map(len, courses))) if (cv := _cv_at(courses, place)) is not None]
    if not found:
        return nothing("one seed has no spread")
    return Estimate(max(found), None, None, len(found), len(courses), "a largest value, picked after the fact")


Of = Callable[[SeedMeasure], float | None]


def plain(row: SeedMeasure) -> float | None:
    """The measure itself."""
    return row.value


def representations_converge(evidence: Evidence) -> ClaimResult:
    """The paper's open question, and what its section 1 says of it."""
    base, shared = evidence.get(BASE), evidence.get(SHARED_INIT)

    def cka(name: str, study: Records | None, of: Of, measure: str = "cka") -> Quantity:
        which = SHARED_INIT if "one initialisation" in name else BASE
        why = evidence.why(which) or "fingerprints of different seeds were not compared"
        return Quantity(name, _over_pairs(study, measure, of, why), "pairs", "+.3f" if " less " in name else ".3f")

    beyond = "CKA without every model's direction of greatest variance"
    return finding(
        "representations-converge",
        "Independent seeds converge to nearly the same internal representations (linear CKA of the probes' final "
        "hidden states above 0.9), not only to the same loss.",
        "section 1; section 4.5 leaves it open",
        "the same pairs untrained, the same pairs with the probes of one shuffled, and seeds that share their "
        "initialisation",
        [
            Bar(cka("linear CKA at the last checkpoint, independent initialisations", base, plain), NEARLY_IDENTICAL),
            Bar(cka("linear CKA less the untrained pair's", base, _less("untrained")), 0.0),
            Bar(cka("linear CKA less the 97.5 % quantile under shuffled probes", base, _less("null_high")), 0.0),
        ],
        explains="a similarity that the architecture and the probes bring without training, or equal losses taken for "
        "equal representations",
        beside=[
            cka(beyond, base, plain, BEYOND_FIRST),
            cka(f"{beyond}, less the untrained pair's", base, _less("untrained"), BEYOND_FIRST),
            _first_direction(base, evidence.why(BASE) or "fingerprints were not read"),
            cka("CKA of the untrained pairs", base, lambda row: row.untrained),
            cka("CKA with one initialisation for all seeds", shared, plain),
            cka("RSA (rank correlation of distances), independent initialisations", base, plain, "rsa"),
            cka("RSA less the untrained pair's", base, _less("untrained"), "rsa"),
            cka("RSA with one initialisation for all seeds", shared, plain, "rsa"),
        ],
        notes=["CKA weighs directions of greatest variance. Where one of them has most of it, CKA says that the seeds "
               "share that one; the row without it says how much of the rest they share. Layers before the last, and "
               "texts other than the 100 probes, were not compared."],
    )  # fmt: skip


def _first_direction(study: Records | None, why: str) -> Quantity:
    values = {row.seed_a: row.value for row in (study.measures if study else ()) if row.measure == FIRST_DIRECTION}
    known = {seed: value for seed, value in values.items() if seed is not None and value is not None}
    found = mean_over_seeds(known, len(known), why)
    return Quantity("share of the variance that lies in that direction", found, "models", ".0f", 100, " %")


def _less(baseline: str) -> Of:
    def excess(row: SeedMeasure) -> float | None:
        below = getattr(row, baseline)
        return None if row.value is None or below is None else row.value - below

    return excess


def _over_pairs(study: Records | None, measure: str, of: Of, why: str) -> Estimate:
    """Mean over pairs of seeds at the last step; seeds are drawn, not pairs, since pairs share them."""
    if study is None:
        return nothing(why)
    rows = [row for row in study.measures if row.measure == measure and row.step is not None]
    last = max((row.step for row in rows if row.step is not None), default=None)
    values: dict[tuple[int, int], float] = {}
    for row in rows:
        value = of(row)
        if row.step == last and value is not None and row.seed_a is not None and row.seed_b is not None:
            values[row.seed_a, row.seed_b] = value
    seeds, mean = mean_over_pairs(values)
    return estimate(seeds, mean, len(values)).through(lambda value: min(1.0, value)) if seeds else nothing(why)


def boundaries_coincide(evidence: Evidence) -> ClaimResult:
    """Table 4."""
    base, why = evidence.get(BASE), evidence.why(BASE)
    bars, beside = [], []
    for regime in ENTERED:
        entered = entries(base.checkpoints, regime) if base else {}
        none = nothing(why or "no seed ever entered this regime")
        spread = spread_over_seeds(list(entered.values()), missing=none.reason or "")
        mean = mean_over_seeds({seed: float(step) for seed, step in entered.items()}, len(entered)) if entered else none
        bars.append(Bar(Quantity(f"std over seeds of the first {regime} step", spread, "seeds", ".0f", 1, " steps"),
                        STD_OF_THE_PAPER, above=False))  # fmt: skip
        beside.append(Quantity(f"first {regime} step", mean, "seeds that entered", ".0f"))
    return finding(
        "boundaries-coincide",
        "Independent seeds enter the regimes at the same steps, to within ± 50.",
        "Table 4, section 4.2",
        "none is needed for the coincidence itself; what causes it is the next claim",
        bars,
        explains="the first checkpoint beyond a threshold makes an entry: where the similarity stays close to the "
        "threshold for long, chance decides when; the thresholds are the paper's, made on another model",
        beside=beside,
        notes=[
            'A step is known to one checkpoint interval only. The paper says "at most scales": its own 7B enters '
            "transition with a std of 108 steps, and of its other five values only the 0 passes by its interval."
        ],
    )


def boundaries_stay(evidence: Evidence) -> ClaimResult:
    """Do the boundaries stay where they are when the schedule's length is another?"""
    studies = list(evidence.those((BASE, *LENGTHS)).values())
    why = evidence.why(BASE, *LENGTHS) or "no seed enters the regime in three lengths"
    bars, beside = [], []
    for regime in reversed(ENTERED):
        moved = {
            seed: value for seed in common_seeds(studies) if (value := elasticity(studies, seed, regime)) is not None
        }
        found = mean_over_seeds(moved, len(moved) * len(studies), why)
        bars.append(Bar(Quantity(f"elasticity of the first {regime} step to the schedule's length", found, "runs"),
                        0.5, above=False))  # fmt: skip
        beside += _jittered(studies, regime, why)
    return finding(
        "boundaries-are-the-landscape",
        "That the boundaries coincide shows that they belong to the landscape: they come after so much training, "
        "however long the schedule is.",
        "sections 4.2 and 9",
        "the same seeds under schedules of 0.6, 0.8 and 1.2 times the length, warm-up included: the elasticity is 0 "
        "where a boundary stays at its step and 1 where it moves in proportion to the schedule",
        bars,
        explains=[
            f"the learning-rate schedule that all seeds share: the first {regime} step moves with its length"
            for regime in reversed(ENTERED)
        ],
        beside=beside,
        notes=[STRONG_READING],
    )


def entries(rows: Sequence[Checkpoint], regime: str) -> dict[int, float]:
    """Seed -> the first step that carries the regime's label; seeds that never enter are left out."""
    return dict(first_entries(rows, regimes=[regime])[0].per_seed) if rows else {}


def elasticity(studies: Sequence[Records], seed: int, regime: str) -> float | None:
    """d log(first step of the regime) / d log(length of the schedule) of one seed; needs three lengths."""
    points = [
        (math.log(study.steps), math.log(step))
        for study in studies
        if (step := entries(study.settled, regime).get(seed)) is not None
    ]
    if len({length for length, _ in points}) < 3:
        return None
    lengths, steps = (np.array(side) for side in zip(*points, strict=True))
    spread = lengths - lengths.mean()
    return float(spread @ (steps - steps.mean()) / (spread @ spread))


def _jittered(studies: Sequence[Records], regime: str, why: str) -> list[Quantity]:
    """The first step with seeds under different schedules, beside the same seeds under one."""
    if len(studies) < 3:
        return []
    seeds, entered = common_seeds(studies), [entries(study.settled, regime) for study in studies]
    mixed = {seed: entered[place % len(studies)].get(seed) for place, seed in enumerate(seeds)}
    alike: Mapping[int, float | None] = {seed: entered[0].get(seed) for seed in seeds}
    found = []
    for name, of in (("one schedule for all", alike), ("a length of its own for every seed", mixed)):
        known = [value for value in of.values() if value is not None]
        spread = spread_over_seeds(known, missing=why)
        found.append(
            Quantity(f"std over seeds of the first {regime} step, {name}", spread, "seeds", ".0f", 1, " steps")
        )
    return found
