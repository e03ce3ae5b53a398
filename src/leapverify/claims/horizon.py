"""The claim that acceptance does not degrade with the horizon, and what bfloat16 weights have to do with it."""

from __future__ import annotations

from leapverify.analysis.study.survival import watched
from leapverify.claims.estimate import PerSeed, SeedEstimate, mean_over_seeds, nothing, seed_means
from leapverify.claims.evidence import BASE, BFLOAT16, PAPER_RATE, STOCHASTIC, Evidence, Records
from leapverify.claims.prediction import MARGIN, accepted, paired, points, strict
from leapverify.claims.rule import Claim, Line, Measured, Quantity, percent

PRECISIONS = (PAPER_RATE, BFLOAT16, STOCHASTIC)


def over_horizons(study: Records, predictor: str, regime: str | None = None) -> PerSeed:
    """Strict acceptance at the longest horizon less that at the shortest, at the same checkpoints."""
    if len(study.horizons) < 2:
        return PerSeed()
    short, long = (accepted(study, strict, predictor, k, regime) for k in (study.horizons[0], study.horizons[-1]))
    return paired(long, short)


def _loss_of_acceptance(name: str, study: Records, contrast: PerSeed, why: str) -> Quantity:
    ends = (study.horizons[-1], study.horizons[0]) if study.horizons else ("long", "short")
    return points(f"{name}, K = {ends[0]} less K = {ends[1]}", contrast, why)


def _depth(evidence: Evidence, why: str) -> Measured:
    base = evidence[BASE]
    deepest = base.horizons[-1] if base.horizons else 0
    versus = paired(*(accepted(base, strict, name, deepest, "stable") for name in ("linear", "random")))

    def over(predictor: str, regime: str | None = "stable") -> Quantity:
        name = f"strict acceptance of {predictor} at {regime or 'all'} checkpoints"
        return _loss_of_acceptance(name, base, over_horizons(base, predictor, regime), why)

    return Measured(
        [over("linear"), points(f"strict acceptance of linear less random, stable, K = {deepest}", versus, why)],
        [over("random"), over("quadratic"), over("adam"), over("linear", None)],
    )


def _rounding(evidence: Evidence, why: str) -> Measured:
    flat = {name: over_horizons(evidence[name], "linear") for name in PRECISIONS}
    survival = _updates(evidence, BFLOAT16, "update_survival")
    # Without it nobody knows whether the weights were bfloat16 at all.
    change = PerSeed() if survival.value is None else flat[BFLOAT16].less(flat[PAPER_RATE])
    beside = []
    for which in PRECISIONS:
        survived, moved = (_updates(evidence, which, column) for column in ("update_survival", "update_projection"))
        beside += [
            percent(f"share of updates that change the weight, {which}", survived, form=".1f"),
            Quantity(f"share of the intended movement that is made, {which}", moved),
            _loss_of_acceptance(
                f"strict acceptance of linear, {which}", evidence[which], flat[which], evidence.why(which)
            ),
        ]
    name = "loss of strict acceptance from the shortest to the longest horizon that bfloat16 spares linear"
    return Measured(
        [
            percent("share of updates that change a bfloat16 weight", survival),
            points(name, change, survival.reason or why),
        ],
        beside,
    )


def _updates(evidence: Evidence, which: str, column: str) -> SeedEstimate:
    """Mean of a column of the checkpoints that have it: of each seed, then over seeds."""
    if why := evidence.why(which):
        return nothing(why)
    rows = [(row.seed, getattr(row, column)) for row in watched(evidence[which].checkpoints)]
    known = seed_means((seed, float(value)) for seed, value in rows if value is not None)
    return mean_over_seeds(*known, f"{column} was not recorded")


CLAIMS = (
    Claim(
        key="depth-is-free",
        text="In the stable regime acceptance does not degrade with the horizon: the weights can be predicted as far "
        "as 100 steps ahead.",
        source="Table 8, section 5.2.1",
        control="a random step of the same length at the longest horizon: where it is accepted as often, nothing was "
        "predicted",
        needs=(BASE,),
        missing="no stable checkpoint was swept at two horizons",
        measure=_depth,
        lines=(
            Line(
                -MARGIN,
                explains="none found here: at this scale, acceptance falls with the horizon (for the paper's see "
                "not-rounding)",
            ),
            Line(
                MARGIN,
                explains="acceptance was given without a control: a short step of any direction is accepted about as "
                "often",
            ),
        ),
        notes=(
            "Table 8 itself decides neither way by such an interval: 66.7 ± 22.4 and 90.0 ± 22.4 % of 5 seeds, taken "
            "as unpaired, differ by 23 points, give or take 33.",
        ),
    ),
    Claim(
        key="not-rounding",
        text="Flat acceptance over the horizons shows a flat landscape, and not weights that hardly move: most updates "
        "of a bfloat16 weight at a peak eta of 5e-5 survive rounding, and bfloat16 does not flatten the curve.",
        source="Table 8, section 5.2.1; it gives no precision, and 80 GB do not hold 7B with weights and moments in "
        "float32",
        control="the same seeds at the same learning rate with float32 weights, and with stochastic rounding",
        needs=(PAPER_RATE, BFLOAT16),
        missing="no seed has both",
        measure=_rounding,
        lines=(
            Line(
                0.5,
                explains="rounding to nearest in bfloat16: an update below half a unit in the last place of its weight "
                "is lost; that this flattens the curve over the horizons only the second condition says",
            ),
            Line(MARGIN, above=False, explains="bfloat16 weights flatten the curve over the horizons"),
        ),
        falls_if="all",
        notes=(
            "How many updates survive depends on eta over the size of a weight, not on how many weights there are.",
            "Checkpoints at which eta is below a hundredth of its largest value are left out: of such updates float32 "
            "loses some, too.",
        ),
    ),
)
