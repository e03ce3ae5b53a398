"""The claims about recognizers: does similarity tell where predictions succeed, and does anything tell it better?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from statistics import fmean

from leapverify.analysis.race.paired import one_sided_p
from leapverify.analysis.study.skill import SIGNALS
from leapverify.claims.evidence import BASE, Evidence, Records
from leapverify.claims.prediction import strict
from leapverify.claims.rule import (
    FALLS,
    OPEN,
    STANDS,
    Bar,
    ClaimResult,
    Estimate,
    Quantity,
    finding,
    holm,
    mean_over_seeds,
    nothing,
)
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


def skill_findings(evidence: Evidence) -> list[ClaimResult]:
    """The claim of section 2.3 and the question that it leaves."""
    return [similarity_recognizes(evidence), nothing_better(evidence)]


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


def oriented(cells: Cells) -> dict[int, float]:
    """Mean AUC of each seed, in the direction in which the signal ranks the other seeds: no seed chooses its own."""
    means = {seed: fmean(own.values()) for seed, own in cells.items() if own}
    found = {}
    for seed, mean in means.items():
        others = [value for other, value in means.items() if other != seed]
        if others:
            found[seed] = mean if fmean(others) >= 0.5 else 1.0 - mean
    return found


def _as_claimed(cells: Cells) -> dict[int, float]:
    """Mean AUC of each seed, more similarity meaning more predictable."""
    return {seed: fmean(own.values()) for seed, own in cells.items() if own}


def _n(cells: Cells) -> int:
    return sum(map(len, cells.values()))


def _difference(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    return {seed: value - b[seed] for seed, value in a.items() if seed in b}


def _shown(name: str, values: Mapping[int, float], n: int, why: str, form: str = ".2f") -> Quantity:
    return Quantity(name, mean_over_seeds(values, n, why), "areas", form)


def similarity_recognizes(evidence: Evidence) -> ClaimResult:
    """Section 2.3: "it predicts correctly"."""
    base, why = evidence.get(BASE), evidence.why(BASE) or _NO_CELL
    found = skills(base) if base else {}
    cells, clock = found.get(SIMILARITY, {}), oriented(found.get(CLOCK, {}))
    own = _as_claimed(cells)
    return finding(
        "similarity-recognizes",
        "Fingerprint similarity recognises where a prediction will succeed.",
        "sections 2.3 and 3.3",
        "the clock: ranking checkpoints by their step alone",
        [
            Bar(
                _shown("AUC of similarity (more of it, more predictable)", own, _n(cells), why),
                0.5,
            ),
            Bar(_shown("AUC of similarity less the clock's", _difference(own, clock), _n(cells), why, "+.2f"), 0.0),
        ],
        explains="rates of acceptance by regime, without asking whether the label ranks checkpoints better than their "
        "place in the schedule does",
        beside=[_shown("AUC of the clock, pointing as in the other seeds", clock, _n(cells), why)],
        notes=[_HOW, "The clock may point either way, similarity only the way that is claimed; how they compare where "
               "both may, the next claim says."],
    )  # fmt: skip


def nothing_better(evidence: Evidence) -> ClaimResult:
    """Does any recorded signal rank better than similarity?"""
    base, why = evidence.get(BASE), evidence.why(BASE) or _NO_CELL
    found = skills(base) if base else {}
    own, n = oriented(found.get(SIMILARITY, {})), _n(found.get(SIMILARITY, {}))
    rivals = {name: oriented(cells) for name, cells in found.items() if name != SIMILARITY}
    ahead = {name: _difference(values, own) for name, values in rivals.items()}
    ahead = {name: values for name, values in ahead.items() if values}
    raw = {name: one_sided_p([-value for value in values.values()]) for name, values in ahead.items()}
    adjusted = holm(raw)
    best = max(ahead, key=lambda name: fmean(ahead[name].values()), default=None)
    estimates = {name: mean_over_seeds(values, n, why) for name, values in ahead.items()}
    lead = estimates[best] if best else nothing(why)
    name = f"AUC of the best rival ({NAMES[best] if best else 'none'}) less similarity's"
    ahead_of_it = Quantity(name, lead, "areas", "+.2f")
    timed = _difference(rivals[best], rivals[CLOCK]) if best and CLOCK in rivals else {}
    beyond = _shown("AUC of the best rival less the clock's", timed, n, why, "+.2f")
    beside = [_shown("AUC of similarity, pointing as in the other seeds", own, n, why)]
    for which, words in NAMES.items():
        if which not in found:
            beside.append(Quantity(f"AUC of {words}", nothing("not recorded")))
            continue
        beside.append(_shown(f"AUC of {words}, pointing as in the other seeds", rivals[which], n, why))
        if which in estimates:
            p = f"Holm p = {adjusted[which]:.3f} of {len(ahead)} rivals"
            beside.append(Quantity(f"AUC of {words} less similarity's ({p})", estimates[which], "areas", "+.2f"))
    return ClaimResult(
        key="nothing-better",
        claim="Of the cheap signals, fingerprint similarity ranks checkpoints best by how predictable they are (our "
        "question: the paper does not claim it).",
        source="asked by sections 2.3 and 6, not claimed or tested there",
        rule="Stands if similarity's AUC is above every rival's by the whole interval; falls if any rival's is above "
        f"similarity's with a sign-flip p below {ALPHA}, by Holm over all rivals; else not decided.",
        control="straightness, curvature, the clock and the Lyapunov exponent, at the same checkpoints",
        verdict=_ranked(estimates, adjusted),
        bars=(),
        beside=(ahead_of_it, beyond, *beside),
        explains="in the paper no other signal was tried" if _ranked(estimates, adjusted) == FALLS else "",
        notes=(_HOW, "Every signal may point either way; which, the other seeds say. The clock is the step; behind the "
               "warm-up the learning rate ranks the same.",
               "The best rival is picked after the fact, which flatters its interval. With n seeds no sign-flip p is "
               "below 2^-n."),
    )  # fmt: skip


def _ranked(estimates: Mapping[str, Estimate], adjusted: Mapping[str, float]) -> str:
    if any(p < ALPHA for p in adjusted.values()):
        return FALLS
    highs = [found.high if found.seeds >= 3 else None for found in estimates.values()]
    return STANDS if highs and all(high is not None and high < 0 for high in highs) else OPEN


_NO_CELL = "no predictor has successes and failures enough in one seed"
_HOW = (
    f"Areas of {', '.join(PREDICTORS[:-1])} and {PREDICTORS[-1]} at every horizon, averaged within a seed over "
    f"the cells with at least {FEWEST_OF_A_CLASS} successes and failures."
)
