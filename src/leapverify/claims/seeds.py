"""The claims about seeds: do they converge, in loss and in representation, and at the same steps?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev

import numpy as np

from leapverify.analysis.study.pairs import mean_over_pairs
from leapverify.analysis.study.seeds import first_entries
from leapverify.claims.estimate import (
    SeedEstimate,
    bootstrap_over_seeds,
    mean_over_seeds,
    nothing,
    spread_over_seeds,
)
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
from leapverify.claims.rule import Claim, Line, Measured, Quantity, percent
from leapverify.io.records import Checkpoint, SeedMeasure

CV_OF_THE_PAPER = 0.025
"""Less than 2.5 % at all scales."""
NEARLY_IDENTICAL = 0.9
"""Of linear CKA; the paper says near-identical and gives no number, this is the reading of it here."""
STD_OF_THE_PAPER = 50.0
"""Steps: "synchronized to within ± 50 steps"."""
ENTERED = ("transition", "stable")

Course = Sequence[Checkpoint]
"""The checkpoints of one seed in order."""


def _courses(study: Records) -> list[Course]:
    rows = sorted(study.checkpoints, key=lambda row: row.step)
    return [[row for row in rows if row.seed == seed] for seed in study.seeds]


def _loss_cv(study: Records, place: int, why: str) -> SeedEstimate:
    """Coefficient of variation of the validation loss over seeds; place 0 is the first checkpoint, -1 the last."""
    losses = [course[place].val_loss for course in _courses(study)]
    return spread_over_seeds(losses, relative=True, missing=why)


def _cv_at(courses: Sequence[Course], place: int) -> float | None:
    losses = [course[place].val_loss for course in courses]
    # A seed drawn with itself alone has no spread.
    if len(set(losses)) < 2 or not np.isfinite(losses).all():
        return None
    return stdev(losses) / fmean(losses)


def _log_collapse(courses: Sequence[Course]) -> float | None:
    last, first = _cv_at(courses, -1), _cv_at(courses, 0)
    return math.log(last / first) if last and first else None


def _largest_cv(study: Records, why: str) -> SeedEstimate:
    courses = _courses(study)
    places = range(min(map(len, courses), default=0))
    found = [cv for place in places if (cv := _cv_at(courses, place)) is not None]
    if not found:
        return nothing(why or "one seed has no spread")
    return SeedEstimate(max(found), None, None, len(found), len(courses), "a largest value, picked after the fact")


def _loss_spread(evidence: Evidence, why: str) -> Measured:
    first, last = (_loss_cv(evidence[BASE], place, why) for place in (0, -1))
    shared = _loss_cv(evidence[SHARED_INIT], -1, evidence.why(SHARED_INIT))
    name = "coefficient of variation of the final validation loss"
    notes = []
    if first.high is not None and first.high < CV_OF_THE_PAPER:
        notes.append(
            "The first checkpoint passes the same line by its whole interval: that the last one does shows no "
            "convergence (the next claim asks for that)."
        )
    return Measured(
        [percent(f"{name}, independent seeds", last, "losses", ".2f")],
        [
            percent("the same at the first checkpoint", first, "losses", ".2f"),
            percent(f"{name}, shared initialisation", shared, "losses", ".2f"),
        ],
        notes,
    )


def _collapse(evidence: Evidence, why: str) -> Measured:
    base = evidence[BASE]
    ratio = bootstrap_over_seeds(_courses(base), _log_collapse, 2 * len(base.seeds), why).through(math.exp)
    return Measured(
        [Quantity("CV at the last checkpoint over CV at the first", ratio, "losses", ".2f", 1, " times")],
        [
            percent("CV at the first checkpoint", _loss_cv(base, 0, why), "losses", ".2f"),
            percent("largest CV of any checkpoint", _largest_cv(base, why), "losses", ".2f"),
        ],
    )


Reading = Callable[[SeedMeasure], float | None]


def _value(row: SeedMeasure) -> float | None:
    return row.value


def _less(baseline: str) -> Reading:
    def excess(row: SeedMeasure) -> float | None:
        below = getattr(row, baseline)
        return None if row.value is None or below is None else row.value - below

    return excess


def _over_pairs(study: Records, measure: str, reading: Reading, why: str) -> SeedEstimate:
    """Mean over pairs of seeds at the last step; seeds are drawn, not pairs, since pairs share them."""
    rows = [row for row in study.measures if row.measure == measure and row.step is not None]
    last = max((row.step for row in rows if row.step is not None), default=None)
    values: dict[tuple[int, int], float] = {}
    for row in rows:
        value = reading(row)
        if row.step == last and value is not None and row.seed_a is not None and row.seed_b is not None:
            values[row.seed_a, row.seed_b] = value
    seeds, mean = mean_over_pairs(values)
    return bootstrap_over_seeds(seeds, mean, len(values), why).through(lambda value: min(1.0, value))


def _representations(evidence: Evidence, _: str) -> Measured:
    def similarity(name: str, reading: Reading, measure: str = "cka", study: str = BASE) -> Quantity:
        why = evidence.why(study) or "fingerprints of different seeds were not compared"
        found = _over_pairs(evidence[study], measure, reading, why)
        return Quantity(name, found, "pairs", "+.3f" if " less " in name else ".3f")

    beyond = "CKA without every model's direction of greatest variance"
    return Measured(
        [
            similarity("linear CKA at the last checkpoint, independent initialisations", _value),
            similarity("linear CKA less the untrained pair's", _less("untrained")),
            similarity("linear CKA less the 97.5 % quantile under shuffled probes", _less("null_high")),
        ],
        [
            similarity(beyond, _value, BEYOND_FIRST),
            similarity(f"{beyond}, less the untrained pair's", _less("untrained"), BEYOND_FIRST),
            _first_direction(evidence[BASE], evidence.why(BASE) or "fingerprints were not read"),
            similarity("CKA of the untrained pairs", lambda row: row.untrained),
            similarity("CKA with one initialisation for all seeds", _value, study=SHARED_INIT),
            similarity("RSA (rank correlation of distances), independent initialisations", _value, "rsa"),
            similarity("RSA less the untrained pair's", _less("untrained"), "rsa"),
            similarity("RSA with one initialisation for all seeds", _value, "rsa", SHARED_INIT),
        ],
    )


def _first_direction(study: Records, why: str) -> Quantity:
    values = {row.seed_a: row.value for row in study.measures if row.measure == FIRST_DIRECTION}
    known = {seed: value for seed, value in values.items() if seed is not None and value is not None}
    found = mean_over_seeds(known, len(known), why)
    return percent("share of the variance that lies in that direction", found, "models")


def entries(rows: Sequence[Checkpoint], regime: str) -> dict[int, float]:
    """Seed -> the first step that carries the regime's label; seeds that never enter are left out."""
    return dict(first_entries(rows, regimes=[regime])[0].per_seed) if rows else {}


def _entry_spread(name: str, values: Sequence[float], why: str) -> Quantity:
    return Quantity(f"std over seeds of the first {name}", spread_over_seeds(values, missing=why), "seeds", ".0f", 1,
                    " steps")  # fmt: skip


def _coincidence(evidence: Evidence, why: str) -> Measured:
    spreads, means = [], []
    for regime in ENTERED:
        entered = entries(evidence[BASE].checkpoints, regime)
        spreads.append(_entry_spread(f"{regime} step", list(entered.values()), why))
        mean = mean_over_seeds({seed: float(step) for seed, step in entered.items()}, len(entered), why)
        means.append(Quantity(f"first {regime} step", mean, "seeds that entered", ".0f"))
    return Measured(spreads, means)


def _elasticities(evidence: Evidence, why: str) -> Measured:
    studies = list(evidence.those((BASE, *LENGTHS)).values())
    decisive, beside = [], []
    for regime in reversed(ENTERED):
        moved = {
            seed: value for seed in common_seeds(studies) if (value := elasticity(studies, seed, regime)) is not None
        }
        found = mean_over_seeds(moved, len(moved) * len(studies), why)
        decisive.append(Quantity(f"elasticity of the first {regime} step to the schedule's length", found, "runs"))
        beside += _jittered(studies, regime, why)
    return Measured(decisive, beside)


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
    return [
        _entry_spread(f"{regime} step, {name}", [value for value in of.values() if value is not None], why)
        for name, of in (("one schedule for all", alike), ("a length of its own for every seed", mixed))
    ]


CLAIMS = (
    Claim(
        key="loss-converges",
        text="Independently initialised seeds end at nearly the same validation loss (CV below 2.5 %).",
        source="Table 3, section 4.1",
        control="the spread at the first checkpoint, when nothing has converged; and seeds that differ in their "
        "batches only (shared initialisation)",
        needs=(BASE,),
        measure=_loss_spread,
        lines=(Line(CV_OF_THE_PAPER, above=False),),
        explains="none found: the losses differ more than the paper's",
        notes=(
            "Equal losses say nothing of equal weights or representations. By its interval the paper itself passes at "
            "124M only: 2.43 % of 4 seeds and 1.53 % of 5 reach up to 9.1 and 4.4 %.",
        ),
    ),
    Claim(
        key="ensemble-collapses",
        text="Seeds that disagree early are drawn together: the spread of the loss shrinks as training goes on "
        "(ensemble collapse).",
        source="section 4.4",
        control="the spread at the first checkpoint, before there was time to converge: untrained models lose alike, "
        "too",
        needs=(BASE,),
        measure=_collapse,
        lines=(Line(1.0, above=False),),
        explains="the starting point: models that have hardly trained lose alike, and a spread measured from its peak "
        "can only fall (the paper's own 7B figures are 0.73 % at step 50 and 1.53 % at the end)",
        notes=(
            "The paper measures from the peak at step 250 (35.8 %, one seed); from its first checkpoint its own CV "
            "grows.",
        ),
    ),
    Claim(
        key="representations-converge",
        text="Independent seeds converge to nearly the same internal representations (linear CKA of the probes' final "
        "hidden states above 0.9), not only to the same loss.",
        source="section 1; section 4.5 leaves it open",
        control="the same pairs untrained, the same pairs with the probes of one shuffled, and seeds that share their "
        "initialisation",
        needs=(BASE,),
        measure=_representations,
        lines=(Line(NEARLY_IDENTICAL), Line(0.0), Line(0.0)),
        explains="a similarity that the architecture and the probes bring without training, or equal losses taken for "
        "equal representations",
        notes=(
            "CKA weighs directions of greatest variance. Where one of them has most of it, CKA says that the seeds "
            "share that one; the row without it says how much of the rest they share. Layers before the last, and "
            "texts other than the 100 probes, were not compared.",
        ),
    ),
    Claim(
        key="boundaries-coincide",
        text="Independent seeds enter the regimes at the same steps, to within ± 50.",
        source="Table 4, section 4.2",
        control="none is needed for the coincidence itself; what causes it is the next claim",
        needs=(BASE,),
        missing="no seed ever entered this regime",
        measure=_coincidence,
        lines=(Line(STD_OF_THE_PAPER, above=False),),
        explains="the first checkpoint beyond a threshold makes an entry: where the similarity stays close to the "
        "threshold for long, chance decides when; the thresholds are the paper's, made on another model",
        notes=(
            'A step is known to one checkpoint interval only. The paper says "at most scales": its own 7B enters '
            "transition with a std of 108 steps, and of its other five values only the 0 passes by its interval.",
        ),
    ),
    Claim(
        key="boundaries-are-the-landscape",
        text="That the boundaries coincide shows that they belong to the landscape: they come after so much training, "
        "however long the schedule is.",
        source="sections 4.2 and 9",
        control="the same seeds under schedules of 0.6, 0.8 and 1.2 times the length, warm-up included: the elasticity "
        "is 0 where a boundary stays at its step and 1 where it moves in proportion to the schedule",
        needs=(BASE, *LENGTHS),
        missing="no seed enters the regime in three lengths",
        measure=_elasticities,
        lines=tuple(
            Line(
                0.5,
                above=False,
                explains="the learning-rate schedule that all seeds share: the first "
                f"{regime} step moves with its length",
            )
            for regime in reversed(ENTERED)
        ),
        notes=(STRONG_READING,),
    ),
)
