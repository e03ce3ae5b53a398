"""The claims about regimes: are they the run's own, or the learning rate's, the interval's, the schedule's?"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations_with_replacement, pairwise

import numpy as np
from numpy.typing import NDArray

from leapverify.analysis.vocabulary import REGIMES
from leapverify.claims.estimate import (
    PerSeed,
    averaged,
    mean_over_seeds,
    nothing,
    rate_over_seeds,
    seed_means,
    share_over_seeds,
)
from leapverify.claims.evidence import (
    BASE,
    CONSTANT,
    LARGER,
    RATES_AND_INTERVALS,
    Evidence,
    Records,
    angle,
    common_seeds,
)
from leapverify.claims.rule import Claim, Line, Measured, Quantity, percent, points
from leapverify.io.records import Checkpoint

FEWEST_ROWS = 6
"""Of a seed, in a regression or in a run of which thirds are compared."""
HALF = 0.5
STRONG_READING = (
    'The paper counts the schedule among what makes the landscape (section 4.2: "the learning rate schedule, data '
    'distribution, and architecture jointly determine when the model transitions"). Read like that it is not touched '
    "here: what is judged is the stronger reading, that the regimes are more than the schedule."
)
"""What the claims about landscapes are up against."""
TOLD_BY = {
    "run": "by the same seed's label at the same step of the unchanged run",
    "eta": "by the sum of eta over the interval alone, cut where it suits the unchanged run best",
    "clock": "by the most common label of the other seeds at that step of the unchanged run",
    "majority": "by the unchanged run's most common label",
    "speed": "by the unchanged run, where labels are cut by angular speed acos(s)/sum of eta instead",
}
"""Rule that tells a label -> in words."""
FITS = {
    "slope": "slope of log acos(s) on log of the sum of eta, over all rates, intervals and constant runs",
    "eta": "R² of that: log acos(s) on log of the sum of eta alone",
    "step": "R² of log acos(s) on the logarithm of the step alone",
    "both": "R² of log acos(s) on both",
}


def _survival(evidence: Evidence, why: str) -> Measured:
    base, changed = evidence[BASE], evidence.those(RATES_AND_INTERVALS)
    told = label_accuracy(base, changed)
    beside = [percent(f"labels told {name}", rate_over_seeds(*told[rule], why)) for rule, name in TOLD_BY.items()]
    for name, study in changed.items():
        found = share_over_seeds(*label_accuracy(base, {name: study})["difference"], why)
        beside.append(points(f"the difference that decides, in {name} alone", found, "checkpoints", "+.0f"))
    ahead = share_over_seeds(*told["difference"], why)
    name = "share of labels told by the unchanged run, less the share told by eta·Delta"
    return Measured([points(name, ahead, "checkpoints", "+.0f")], [*beside, *regression(evidence)])


def label_accuracy(base: Records, changed: Mapping[str, Records]) -> Mapping[str, PerSeed]:
    """Of the changed runs' labels, the share that each rule tells.

    Rules: `run`, the same seed's label at the same step of the base study; `clock`, the most common label of its other
    seeds; `majority`; `eta`, two cut points of the sum of eta over the interval that tell most of the base study's
    own labels; `speed`, as `run` with all labels cut by the angular speed. `difference` is run less eta.
    """
    low, high = eta_cuts(base.settled)
    most = Counter(row.regime for row in base.settled).most_common(1)[0][0] if base.settled else ""
    cuts = _speed_cuts(base.settled)
    hits: dict[str, list[tuple[int, float]]] = {rule: [] for rule in (*TOLD_BY, "difference")}
    for row, partner in _partners(base, changed):
        others = Counter(r.regime for r in base.settled if r.step == row.step and r.seed != row.seed)
        told = {"run": partner.regime, "eta": _by_eta(row.eta_sum, low, high), "majority": most}
        told |= {"clock": others.most_common(1)[0][0]} if others else {}
        right = {rule: float(label == row.regime) for rule, label in told.items()}
        right["speed"] = float(_by_speed(row, cuts) == _by_speed(partner, cuts))
        right["difference"] = right["run"] - right["eta"]
        for rule, hit in right.items():
            hits[rule].append((row.seed, hit))
    return {rule: seed_means(of_rule) for rule, of_rule in hits.items()}


def _partners(base: Records, changed: Mapping[str, Records]) -> Iterator[tuple[Checkpoint, Checkpoint]]:
    """Checkpoints of changed runs, each with that of the base study at its seed and step."""
    known = {(row.seed, row.step): row for row in base.settled}
    for study in changed.values():
        for row in study.settled:
            if (row.seed, row.step) in known:
                yield row, known[row.seed, row.step]


def eta_cuts(rows: Sequence[Checkpoint]) -> tuple[float, float]:
    """The two cut points of the sum of eta that tell most of the labels (of equally good ones the lowest): stable
    below the first, chaotic above the second."""
    counts: dict[float, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row.eta_sum][row.regime] += 1
    values = sorted(counts)
    cuts = [-math.inf, *((a + b) / 2 for a, b in pairwise(values)), math.inf]

    def told(pair: tuple[float, float]) -> int:
        return sum(of_value[_by_eta(value, *pair)] for value, of_value in counts.items())

    return max(combinations_with_replacement(cuts, 2), key=told)


def _by_eta(eta_sum: float, low: float, high: float) -> str:
    return "stable" if eta_sum < low else "chaotic" if eta_sum > high else "transition"


def _speed(row: Checkpoint) -> float:
    return (angle(row) or 0.0) / row.eta_sum if row.eta_sum > 0 else math.inf


def _speed_cuts(rows: Sequence[Checkpoint]) -> tuple[float, float]:
    """The 30th and 70th percentiles of the angular speed, as the paper's thresholds are of the similarity."""
    speeds = [_speed(row) for row in rows]
    low, high = np.percentile(speeds, (30, 70)) if speeds else (0.0, 0.0)
    return float(low), float(high)


def _by_speed(row: Checkpoint, cuts: tuple[float, float]) -> str:
    return _by_eta(_speed(row), *cuts)


def regression(evidence: Evidence) -> list[Quantity]:
    """log acos(s_t) on log(sum of eta) over every rate and interval: slope, R^2, and what the step adds."""
    studies = list(evidence.those((BASE, *RATES_AND_INTERVALS, *CONSTANT)).values())
    fits: dict[str, dict[int, float]] = defaultdict(dict)
    n = 0
    for seed in common_seeds(studies):
        rows = [row for study in studies for row in study.settled if row.seed == seed and row.eta_sum > 0]
        if len(rows) < FEWEST_ROWS or len({row.eta_sum for row in rows}) < 3:
            continue
        n += len(rows)
        y = np.log([angle(row) or math.nan for row in rows])
        eta, step = np.log([row.eta_sum for row in rows]), np.log([float(row.step) for row in rows])
        slopes, of_eta = _fit(y, eta)
        fits["slope"][seed], fits["eta"][seed] = float(slopes[0]), of_eta
        fits["both"][seed], fits["step"][seed] = _fit(y, eta, step)[1], _fit(y, step)[1]
    why = "fewer than two studies with different rates" if len(studies) < 2 else "no seed has enough checkpoints"
    return [Quantity(name, mean_over_seeds(fits[key], n, why)) for key, name in FITS.items()]


def _fit(y: NDArray[np.float64], *columns: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Slopes and R^2 of ordinary least squares with an intercept."""
    design = np.column_stack([*columns, np.ones_like(y)])
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    rest, total = float(((y - design @ solution) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    return solution[:-1].astype(np.float64), 1.0 - rest / total if total > 0 else math.nan


def _standing(evidence: Evidence, why: str) -> Measured:
    base, constant = evidence[BASE], evidence.those(CONSTANT)
    falls = _slowing(base)
    own = mean_over_seeds(falls, len(base.settled), why or "no seed has enough checkpoints")
    found = mean_over_seeds(*averaged(_kept(study, falls) for study in constant.values()), why)
    if own.high is None or own.high >= 0:
        found = nothing(why or "in the unchanged run the fingerprints do not slow down to begin with")
    beside = [Quantity("change of log acos(s) from the first to the last third of the unchanged run", own, form="+.2f")]
    for name, study in constant.items():
        rate = f"at eta = {study.peak:.3g} throughout ({name})"
        beside.append(percent(f"share of the slowing-down kept {rate}", mean_over_seeds(*_kept(study, falls))))
        beside += [
            percent(f"{regime} checkpoints {rate}", rate_over_seeds(*regime_share(study, regime))) for regime in REGIMES
        ]
    name = "share of the slowing-down (first to last third, log acos(s)) that constant rates keep"
    return Measured([percent(name, found)], beside, [STRONG_READING, *_rates_that_keep(constant, falls)])


def _rates_that_keep(constant: Mapping[str, Records], falls: Mapping[int, float]) -> Iterator[str]:
    """Constant rates that on their own keep more than half: the mean over rates would hide them."""
    for study in constant.values():
        kept = mean_over_seeds(*_kept(study, falls))
        if kept.low is not None and kept.low > HALF:
            yield (
                f"The mean hides that at eta = {study.peak:.3g} alone the fingerprints keep more than half of the "
                "slowing-down, by the whole interval: there they slow down without a schedule."
            )


def _kept(study: Records, falls: Mapping[int, float]) -> PerSeed:
    """The share of the base study's slowing-down that a run keeps."""
    shares = {seed: change / falls[seed] for seed, change in _slowing(study).items() if falls.get(seed, 0.0) < 0}
    return PerSeed(shares, len(study.settled))


def _slowing(study: Records) -> dict[int, float]:
    """Seed -> mean log angle of the last third of its checkpoints behind the warm-up, less that of the first third."""
    found = {}
    for seed in study.seeds:
        angles = [math.log(a) for row in study.settled if row.seed == seed and (a := angle(row))]
        third = len(angles) // 3
        if len(angles) >= FEWEST_ROWS:
            found[seed] = float(np.mean(angles[-third:]) - np.mean(angles[:third]))
    return found


def regime_share(study: Records, regime: str) -> PerSeed:
    """The share of a regime among the labelled checkpoints behind the warm-up."""
    return seed_means((row.seed, float(row.regime == regime)) for row in study.settled)


def _scaling(evidence: Evidence, why: str) -> Measured:
    base, larger = evidence[BASE], evidence[LARGER]
    chaotic, transition, stable = (
        Quantity(
            f"mean similarity of {regime} checkpoints, larger less smaller model",
            mean_over_seeds(*_by_size(base, larger, regime), why),
            form="+.2e",
        )
        for regime in ("chaotic", "transition", "stable")
    )
    beside = [transition]
    for name, study in (("smaller", base), ("larger", larger)):
        size = f"{study.parameters:,} parameters" if study.parameters else "size not recorded"
        for regime in REGIMES:
            found = rate_over_seeds(*regime_share(study, regime), why)
            beside.append(percent(f"{regime} checkpoints of the {name} model ({size})", found))
    return Measured([chaotic, stable], beside)


def _by_size(base: Records, larger: Records, regime: str) -> PerSeed:
    """Mean similarity of a regime's checkpoints, larger less smaller model."""
    rows = [[row for row in study.settled if row.regime == regime] for study in (base, larger)]
    small, large = (seed_means((row.seed, row.similarity) for row in own if row.similarity is not None) for own in rows)
    both = large.less(small).values
    return PerSeed(both, sum(row.seed in both for own in rows for row in own))


CLAIMS = (
    Claim(
        key="regimes-survive",
        text="The three regimes are a property of the run: a checkpoint keeps its label when the learning rate or the "
        "checkpoint interval is another.",
        source="sections 3.1 and 4.2",
        control="the same seeds with half and twice the learning rate and half and twice the interval; a rule that "
        "knows nothing of the run but the sum of eta over the interval",
        needs=(BASE, *RATES_AND_INTERVALS),
        missing="no checkpoint has a partner at the same step",
        measure=_survival,
        lines=(Line(0.0),),
        explains="thresholds on the angle of a whole interval, which grows with eta·Delta: the label says how far the "
        "optimizer was allowed to move",
        notes=(
            STRONG_READING,
            "The runs with another rate or interval are counted label by label, so that those with more checkpoints "
            "weigh more. R² of the step is low by design where rates differ between runs; what counts is how much the "
            "step adds to eta.",
        ),
    ),
    Claim(
        key="regimes-at-constant-rate",
        text="Training itself passes from chaotic through transition to stable: at a learning rate that stands still "
        "the fingerprints keep at least half of their slowing-down.",
        source="sections 3, 3.1 and 9",
        control="the same seeds at a learning rate that stays where the warm-up ends (the peak, a quarter, a sixteenth "
        "of it)",
        needs=(BASE, *CONSTANT),
        measure=_standing,
        lines=(Line(HALF),),
        explains="the cosine's falling learning rate: when it does not fall, the fingerprints slow down on average by "
        "the share given here only",
        notes=("The line is ours.",),
    ),
    Claim(
        key="regimes-scale",
        text="With scale the chaotic regime becomes wilder and the stable one tighter (the paper's signature finding).",
        source="Tables 1 and 2",
        control="the same seeds, data, family and schedule with a model about four times as large",
        needs=(BASE, LARGER),
        missing="no seed is ever in that regime in both sizes",
        measure=_scaling,
        lines=(Line(0.0, above=False), Line(0.0)),
        explains="none found here; in the paper the family of the models changes with their size (its section 7)",
        notes=(
            "Means within a regime are cut at the thresholds, so they cannot move far. Two sizes make no law: the "
            "paper's own step from 124M to 1.5B misses the second condition (stable 0.9997, then 0.9995).",
            "Both sizes have one learning rate, as in the paper; at equal rate AdamW moves the function of a wider "
            "model further, which alone would make its checkpoints more chaotic.",
        ),
    ),
)
