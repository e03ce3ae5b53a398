"""The claims about recognizers: does similarity tell where predictions succeed, and does anything tell it better?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from statistics import fmean

from leapverify.analysis.race.paired import one_sided_p
from leapverify.analysis.study.skill import SIGNALS
from leapverify.claims.estimate import PerSeed, SeedEstimate, holm, mean_over_seeds, nothing
from leapverify.claims.evidence import BASE, Evidence, Records
from leapverify.claims.prediction import strict
from leapverify.claims.rule import FALLS, OPEN, STANDS, Claim, Line, Measured, Quantity
from leapverify.core.statistics import auc
from leapverify.io.records import Checkpoint, Prediction

SIMILARITY, CLOCK = "similarity", "step"
RANKED: Mapping[str, Callable[[Checkpoint], float | None]] = {
    **SIGNALS,
    "lyapunov": lambda row: None if row.lyapunov is None else -row.lyapunov,
}
NAMES = {
    "similarity_centred": "centred similarity",
    "straightness": "straightness of the weights' path",
    "loss_curvature": "curvature of the loss curve",
    "step": "the clock",
    "lyapunov": "the local Lyapunov exponent",
}
PREDICTORS = ("linear", "quadratic", "adam", "adam-constant")
FEWEST_OF_A_CLASS = 2
"""Successes and failures of a seed in one cell, below which it does not count."""
ALPHA = 0.05

Cells = Mapping[int, Mapping[tuple[str, int], float]]
"""Seed -> (predictor, horizon) -> AUC."""


def skills(study: Records) -> dict[str, Cells]:
    """Of each signal the AUC for the strict success of each predictor at each horizon, seed by seed.

    All signals are judged at the same checkpoints: those that have every signal that was recorded at all.
    """
    recorded = {name: of for name, of in RANKED.items() if any(_finite(of(row)) for row in study.checkpoints)}
    whole = {key: row for key, row in study.at.items() if all(_finite(of(row)) for of in recorded.values())}
    cells: dict[tuple[int, str, int], list[Prediction]] = defaultdict(list)
    for predictor in PREDICTORS:
        for row in study.judged(predictor):
            if (row.seed, row.step) in whole and strict(row) is not None:
                cells[row.seed, predictor, row.horizon].append(row)
    found: dict[str, dict[int, dict[tuple[str, int], float]]] = {name: defaultdict(dict) for name in recorded}
    for (seed, predictor, horizon), rows in cells.items():
        hits = [bool(strict(row)) for row in rows]
        if min(sum(hits), len(hits) - sum(hits)) < FEWEST_OF_A_CLASS:
            continue
        for name, of in recorded.items():
            area = auc([float(of(whole[row.seed, row.step]) or 0.0) for row in rows], hits)
            assert area is not None  # both classes occur
            found[name][seed][predictor, horizon] = area
    return dict(found)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def as_claimed(cells: Cells) -> dict[int, float]:
    """Mean AUC of each seed, a larger signal meaning more predictable."""
    return {seed: fmean(own.values()) for seed, own in cells.items() if own}


def oriented(cells: Cells) -> dict[int, float]:
    """Mean AUC of each seed, in the direction in which the signal ranks the other seeds: no seed chooses its own."""
    means = as_claimed(cells)
    found = {}
    for seed, mean in means.items():
        others = [value for other, value in means.items() if other != seed]
        if others:
            found[seed] = mean if fmean(others) >= 0.5 else 1.0 - mean
    return found


def _area(name: str, values: Mapping[int, float], n: int, why: str, form: str = ".2f") -> Quantity:
    return Quantity(name, mean_over_seeds(values, n, why), "areas", form)


def _less(a: Mapping[int, float], b: Mapping[int, float]) -> Mapping[int, float]:
    return PerSeed(a).less(PerSeed(b)).values


def _recognizes(evidence: Evidence, why: str) -> Measured:
    found = skills(evidence[BASE])
    own, clock = as_claimed(found.get(SIMILARITY, {})), oriented(found.get(CLOCK, {}))
    n = sum(map(len, found.get(SIMILARITY, {}).values()))
    return Measured(
        [
            _area("AUC of similarity (more of it, more predictable)", own, n, why),
            _area("AUC of similarity less the clock's", _less(own, clock), n, why, "+.2f"),
        ],
        [_area("AUC of the clock, pointing as in the other seeds", clock, n, why)],
    )


def _rivals(evidence: Evidence, why: str) -> Measured:
    found = skills(evidence[BASE])
    areas = {name: oriented(cells) for name, cells in found.items()}
    n, own = sum(map(len, found.get(SIMILARITY, {}).values())), areas.get(SIMILARITY, {})
    differences = {name: _less(values, own) for name, values in areas.items() if name != SIMILARITY}
    ahead = {name: values for name, values in differences.items() if values}
    adjusted = holm({name: one_sided_p([-value for value in values.values()]) for name, values in ahead.items()})
    estimates = {name: mean_over_seeds(values, n, why) for name, values in ahead.items()}
    best = max(ahead, key=lambda name: fmean(ahead[name].values()), default="")
    lead = f"AUC of the best rival ({NAMES.get(best, 'none')}) less similarity's"
    timed = _less(areas.get(best, {}), areas.get(CLOCK, {}))
    beside = [
        Quantity(lead, estimates.get(best, nothing(why)), "areas", "+.2f"),
        _area("AUC of the best rival less the clock's", timed, n, why, "+.2f"),
        _area("AUC of similarity, pointing as in the other seeds", own, n, why),
    ]
    for which, words in NAMES.items():
        if which not in found:
            beside.append(Quantity(f"AUC of {words}", nothing("not recorded")))
            continue
        beside.append(_area(f"AUC of {words}, pointing as in the other seeds", areas[which], n, why))
        if which in estimates:
            p = f"Holm p = {adjusted[which]:.3f} of {len(ahead)} rivals"
            beside.append(Quantity(f"AUC of {words} less similarity's ({p})", estimates[which], "areas", "+.2f"))
    return Measured(beside=beside, verdict=_ranked(estimates, adjusted))


def _ranked(estimates: Mapping[str, SeedEstimate], adjusted: Mapping[str, float]) -> str:
    if any(p < ALPHA for p in adjusted.values()):
        return FALLS
    highs = [found.high if found.seeds >= 3 else None for found in estimates.values()]
    return STANDS if highs and all(high is not None and high < 0 for high in highs) else OPEN


_NO_CELL = "no predictor has successes and failures enough in one seed"
_HOW = (
    f"Areas of {', '.join(PREDICTORS[:-1])} and {PREDICTORS[-1]} at every horizon, averaged within a seed over "
    f"the cells with at least {FEWEST_OF_A_CLASS} successes and failures."
)
CLAIMS = (
    Claim(
        key="similarity-recognizes",
        text="Fingerprint similarity recognises where a prediction will succeed.",
        source="sections 2.3 and 3.3",
        control="the clock: ranking checkpoints by their step alone",
        needs=(BASE,),
        missing=_NO_CELL,
        measure=_recognizes,
        lines=(Line(0.5), Line(0.0)),
        explains="rates of acceptance by regime, without asking whether the label ranks checkpoints better than their "
        "place in the schedule does",
        notes=(
            _HOW,
            "The clock may point either way, similarity only the way that is claimed; how they compare where both may, "
            "the next claim says.",
        ),
    ),
    Claim(
        key="nothing-better",
        text="Of the cheap signals, fingerprint similarity ranks checkpoints best by how predictable they are (our "
        "question: the paper does not claim it).",
        source="asked by sections 2.3 and 6, not claimed or tested there",
        control="straightness, curvature, the clock and the Lyapunov exponent, at the same checkpoints",
        needs=(BASE,),
        missing=_NO_CELL,
        measure=_rivals,
        rule="Stands if similarity's AUC is above every rival's by the whole interval; falls if any rival's is above "
        f"similarity's with a sign-flip p below {ALPHA}, by Holm over all rivals; else not decided.",
        explains="in the paper no other signal was tried",
        notes=(
            _HOW,
            "Every signal may point either way; which, the other seeds say. The clock is the step; behind the warm-up "
            "the learning rate ranks the same.",
            "The best rival is picked after the fact, which flatters its interval. With n seeds no sign-flip p is "
            "below 2^-n.",
        ),
    ),
)
