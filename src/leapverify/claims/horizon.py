"""The claim that acceptance does not degrade with the horizon, and what bfloat16 weights have to do with it."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from leapverify.analysis.study.survival import watched
from leapverify.claims.evidence import BASE, BFLOAT16, PAPER_RATE, STOCHASTIC, Evidence, Records
from leapverify.claims.prediction import MARGIN, Contrast, against, minus, points, strict
from leapverify.claims.rule import (
    Bar,
    ClaimResult,
    Estimate,
    Quantity,
    finding,
    mean_over_seeds,
    nothing,
)


def horizon_findings(evidence: Evidence) -> list[ClaimResult]:
    """Table 8's two readings."""
    return [depth_is_free(evidence), not_rounding(evidence)]


def over_horizons(study: Records, predictor: str, regime: str | None = None) -> Contrast:
    """Strict acceptance at the longest horizon less that at the shortest, at the same checkpoints."""
    if len(study.horizons) < 2:
        return {}, 0
    found: dict[int, list[float]] = defaultdict(list)
    ends = []
    for horizon in (study.horizons[0], study.horizons[-1]):
        rows = [row for row in study.judged(predictor, horizon) if regime in (None, row.regime)]
        ends.append({(row.seed, row.step): float(v) for row in rows if (v := strict(row)) is not None})
    for key in ends[0].keys() & ends[1].keys():
        found[key[0]].append(ends[1][key] - ends[0][key])
    return {seed: float(np.mean(own)) for seed, own in found.items()}, sum(map(len, found.values()))


def depth_is_free(evidence: Evidence) -> ClaimResult:
    """Table 8, as a property of the trajectory."""
    base, why = evidence.get(BASE), evidence.why(BASE) or "no stable checkpoint was swept at two horizons"
    none: Contrast = ({}, 0)
    what = "strict acceptance of {} at {} checkpoints"
    name = _named(what.format("linear", "stable"), base)
    deepest = base.horizons[-1] if base and base.horizons else 0
    versus = against(base, strict, "linear", "random", deepest, "stable") if base else none
    beside = [points(_named(what.format(p, "stable"), base), over_horizons(base, p, "stable") if base else none, why)
              for p in ("random", "quadratic", "adam")]  # fmt: skip
    beside.append(points(_named(what.format("linear", "all"), base),
                         over_horizons(base, "linear") if base else none, why))  # fmt: skip
    return finding(
        "depth-is-free",
        "In the stable regime acceptance does not degrade with the horizon: the weights can be predicted as far as 100 "
        "steps ahead.",
        "Table 8, section 5.2.1",
        "a random step of the same length at the longest horizon: where it is accepted as often, nothing was predicted",
        [
            Bar(points(name, over_horizons(base, "linear", "stable") if base else none, why), -MARGIN),
            Bar(
                points(f"strict acceptance of linear less random, stable, K = {deepest}", versus, why),
                MARGIN,
            ),
        ],
        explains=(
            "none found here: at this scale, acceptance falls with the horizon (for the paper's see not-rounding)",
            "acceptance was given without a control: a short step of any direction is accepted about as often",
        ),
        beside=beside,
        notes=["Table 8 itself decides neither way by such an interval: 66.7 ± 22.4 and 90.0 ± 22.4 % of 5 seeds, "
               "taken as unpaired, differ by 23 points, give or take 33."],
    )  # fmt: skip


def _named(what: str, study: Records | None) -> str:
    ends = (study.horizons[-1], study.horizons[0]) if study and study.horizons else ("long", "short")
    return f"{what}, K = {ends[0]} less K = {ends[1]}"


def not_rounding(evidence: Evidence) -> ClaimResult:
    """Table 8, as a property of the precision."""
    full, half = evidence.get(PAPER_RATE), evidence.get(BFLOAT16)
    why = evidence.why(PAPER_RATE, BFLOAT16) or "no seed has both"
    none: Contrast = ({}, 0)
    flat = {name: over_horizons(study, "linear") for name, study in evidence.those(_ALL).items()}
    change = minus(flat[BFLOAT16], flat[PAPER_RATE]) if full and half else none
    survival = _updates(half, "update_survival", evidence.why(BFLOAT16))
    if survival.value is None:
        # Without it nobody knows whether the weights were bfloat16 at all.
        change = none
    name = "loss of strict acceptance from the shortest to the longest horizon that bfloat16 spares linear"
    beside = []
    for which in _ALL:
        study, said = evidence.get(which), evidence.why(which)
        beside.append(Quantity(f"share of updates that change the weight, {which}",
                               _updates(study, "update_survival", said), scale=100, form=".1f", unit=" %"))  # fmt: skip
        beside.append(Quantity(f"share of the intended movement that is made, {which}",
                               _updates(study, "update_projection", said)))  # fmt: skip
        beside.append(points(_named(f"strict acceptance of linear, {which}", study), flat.get(which, none), said))
    return finding(
        "not-rounding",
        "Flat acceptance over the horizons shows a flat landscape, and not weights that hardly move: most updates of a "
        "bfloat16 weight at a peak eta of 5e-5 survive rounding, and bfloat16 does not flatten the curve.",
        "Table 8, section 5.2.1; it gives no precision, and 80 GB do not hold 7B with weights and moments in float32",
        "the same seeds at the same learning rate with float32 weights, and with stochastic rounding",
        [
            Bar(Quantity("share of updates that change a bfloat16 weight", survival, scale=100, form=".0f", unit=" %"),
                0.5),
            Bar(points(name, change, survival.reason or why), MARGIN, above=False),
        ],
        explains=(
            "rounding to nearest in bfloat16: an update below half a unit in the last place of its weight is lost; "
            "that this flattens the curve over the horizons only the second condition says",
            "bfloat16 weights flatten the curve over the horizons",
        ),
        falls_if="all",
        beside=beside,
        notes=["How many updates survive depends on eta over the size of a weight, not on how many weights there are.",
               "Checkpoints at which eta is below a hundredth of its largest value are left out: of such updates "
               "float32 loses some, too."],
    )  # fmt: skip


_ALL = (PAPER_RATE, BFLOAT16, STOCHASTIC)


def _updates(study: Records | None, column: str, why: str) -> Estimate:
    """Mean of a column of the checkpoints that have it: of each seed, then over seeds."""
    if study is None:
        return nothing(why)
    values: dict[int, list[float]] = defaultdict(list)
    for row in watched(study.checkpoints):
        value = getattr(row, column)
        if value is not None:
            values[row.seed].append(float(value))
    means = {seed: float(np.mean(own)) for seed, own in values.items()}
    return mean_over_seeds(means, sum(map(len, values.values())), f"{column} was not recorded")
