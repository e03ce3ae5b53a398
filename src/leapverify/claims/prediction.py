"""The claims about prediction: momentum, acceptance by regime, and proximity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from leapverify.claims.estimate import PerSeed, averaged, mean_over_seeds, rate_over_seeds, seed_means, share_over_seeds
from leapverify.claims.evidence import BASE, CONSTANT, HALF_MOMENTS, Evidence, Records, common_seeds
from leapverify.claims.rule import Claim, Line, Measured, Quantity, percent
from leapverify.claims.rule import points as in_points
from leapverify.io.records import Prediction

MARGIN = 0.05
"""Five points of acceptance: a smaller difference is no finding."""
CATASTROPHE = 10.0
"""Times the loss; the paper has 122 to 10,764."""
HARMLESS = 1.05
"""Times the loss: the paper's own bound of proximity."""
RATES = ("rate-half", "rate-double", *CONSTANT)
"""With the base study: the same interval at other rates."""

Criterion = Callable[[Prediction], bool | None]
"""Whether a prediction is accepted; None where it was not judged."""


def strict(row: Prediction) -> bool | None:
    """Whether the prediction lowered the loss; one that is not finite did not."""
    return False if row.status == "nonfinite" else row.strict


def proximity(row: Prediction) -> bool | None:
    """Whether the predicted loss is within 5 % of the present one."""
    return False if row.status == "nonfinite" else row.proximity


def points(name: str, contrast: PerSeed, why: str) -> Quantity:
    """A difference of acceptance in points."""
    return in_points(name, share_over_seeds(*contrast, why or "no seed has both"))


def acceptance(
    name: str,
    study: Records,
    predictor: str,
    horizon: int,
    criterion: Criterion,
    why: str,
    regime: str | None = None,
) -> Quantity:
    """The share of one predictor's predictions that are accepted: of each seed, then over seeds."""
    rows = [row for row in study.judged(predictor, horizon) if regime in (None, row.regime)]
    shares = seed_means((row.seed, float(hit)) for row in rows if (hit := criterion(row)) is not None)
    return percent(name, rate_over_seeds(*shares, why or "no such prediction was made"), "predictions")


def accepted(
    study: Records, criterion: Criterion, predictor: str, horizon: int, regime: str | None = None
) -> dict[tuple[int, int], float]:
    """(seed, step) -> 1 where the prediction made there is accepted, else 0."""
    rows = [row for row in study.judged(predictor, horizon) if regime in (None, row.regime)]
    return {(row.seed, row.step): float(hit) for row in rows if (hit := criterion(row)) is not None}


def paired(a: dict[tuple[int, int], float], b: dict[tuple[int, int], float]) -> PerSeed:
    """Acceptance a less acceptance b at the checkpoints that both have."""
    return seed_means((key[0], a[key] - b[key]) for key in sorted(a.keys() & b.keys()))


def against(study: Records, criterion: Criterion, predictor: str, control: str) -> PerSeed:
    """Acceptance of a predictor less that of a control at the same checkpoints, averaged over horizons."""
    return averaged(
        paired(accepted(study, criterion, predictor, k), accepted(study, criterion, control, k)) for k in study.horizons
    )


def by_regime(study: Records, predictor: str, other: str | None = None) -> PerSeed:
    """Strict acceptance at stable checkpoints less that at all others that are labelled, averaged over horizons.

    Args:
        study: the records.
        predictor: its name.
        other: the one regime to compare with; None: every other.
    """
    return averaged(_one_horizon(study.judged(predictor, k), other) for k in study.horizons)


def _one_horizon(rows: Sequence[Prediction], other: str | None) -> PerSeed:
    known = [row for row in rows if row.regime != "unknown" and (other is None or row.regime in ("stable", other))]
    hits = [(row, float(hit)) for row in known if (hit := strict(row)) is not None]
    inside, outside = (
        seed_means((row.seed, hit) for row, hit in hits if (row.regime == "stable") is stable)
        for stable in (True, False)
    )
    both = inside.less(outside).values
    return PerSeed(both, sum(row.seed in both for row, _ in hits))


def _ends(study: Records) -> list[int]:
    """The shortest and the longest horizon; the paper's, where there is no study."""
    return sorted({study.horizons[0], study.horizons[-1]}) if study.horizons else [5, 100]


def _inflation(study: Records, predictor: str, horizon: int, why: str, how: str = "") -> Quantity:
    """L_hat / L_t, geometric mean within and over seeds; predictions that are not finite are left out."""
    logs = seed_means(
        (row.seed, math.log(row.loss_predicted / row.loss_now))
        for row in study.judged(predictor, horizon)
        if row.loss_predicted is not None and row.loss_predicted > 0 and math.isfinite(row.loss_predicted)
    )
    found = mean_over_seeds(*logs, why or "no such prediction was finite")
    return Quantity(f"L_hat/L_t of {predictor} at K = {horizon}{how}", found.through(math.exp), "predictions", ".4g")


def _momentum(evidence: Evidence, why: str) -> Measured:
    base = evidence[BASE]
    return Measured([_inflation(base, "momentum", k, why) for k in base.horizons or _ends(base)])


def _optimizer_state(evidence: Evidence, why: str) -> Measured:
    base, half = evidence[BASE], evidence[HALF_MOMENTS]
    ends = _ends(base)
    beside = [_inflation(base, "adam", k, why) for k in base.horizons if k not in ends]
    beside += [_inflation(base, "adam-constant", k, why) for k in base.horizons]
    for predictor in ("adam", "adam-constant"):
        for k in _ends(half):
            said = evidence.why(HALF_MOMENTS)
            beside.append(_inflation(half, predictor, k, said, " with moments kept in float16"))
    for predictor in ("adam", "random"):
        name = f"strict acceptance of {predictor} at the shortest horizon"
        beside.append(acceptance(name, base, predictor, ends[0], strict, why))
    return Measured([_inflation(base, "adam", k, why) for k in ends], beside)


def _by_regime(evidence: Evidence, why: str) -> Measured:
    base = evidence[BASE]
    name = "strict acceptance of {}, stable less other checkpoints, all horizons"
    linear, random = by_regime(base, "linear"), by_regime(base, "random")
    alone = by_regime(base, "linear", other="transition")
    of_two = "strict acceptance of linear, stable less transition, all horizons"
    beside = [
        points(name.format("random"), random, why),
        points(of_two, alone, why),
        points(f"{of_two}, less random's", alone.less(by_regime(base, "random", other="transition")), why),
    ]
    shortest = _ends(base)[0]
    for predictor in ("linear", "random", "quadratic"):
        for regime in ("chaotic", "transition", "stable"):
            label = f"strict acceptance of {predictor} at K = {shortest}, {regime}"
            beside.append(acceptance(label, base, predictor, shortest, strict, why, regime))
    own = name.format("linear")
    decisive = [points(own, linear, why), points(f"{own}, less random's", linear.less(random), why)]
    return Measured(decisive, beside)


def _beyond_rate(evidence: Evidence, why: str) -> Measured:
    studies = evidence.those((BASE, *RATES))
    # Within one schedule the rate and the label both follow the clock: nothing could tell them apart.
    together = list(studies.values()) if len({study.peak for study in studies.values()}) > 1 else []
    name = "coefficient of stable for {}, beside {}the horizon"
    rate = "log of the sum of eta and "
    beside = [
        points(name.format("linear", ""), stable_coefficient(together, "linear", with_rate=False), why),
        points(name.format("random", rate), stable_coefficient(together, "random", with_rate=True), why),
    ]
    for which in CONSTANT:
        said = evidence.why(which) or "no seed has stable and other checkpoints at this rate"
        label = f"strict acceptance of linear, stable less other, in {which}"
        beside.append(points(label, by_regime(evidence[which], "linear"), said))
    own = stable_coefficient(together, "linear", with_rate=True)
    return Measured([points(name.format("linear", rate), own, why)], beside)


def stable_coefficient(studies: Sequence[Records], predictor: str, *, with_rate: bool) -> PerSeed:
    """Least squares of strict acceptance on [stable], the horizon and, if asked, log of the sum of eta; a seed each."""
    found, n = {}, 0
    for seed in common_seeds(studies):
        rows = [
            (study.at[seed, row.step].eta_sum, row)
            for study in studies
            for row in study.judged(predictor)
            if row.seed == seed and row.regime != "unknown" and strict(row) is not None
        ]
        stable = np.array([row.regime == "stable" for _, row in rows], dtype=float)
        if len(rows) < 10 or stable.min() == stable.max():
            continue
        horizons = sorted({row.horizon for _, row in rows})
        columns = [stable, *(np.array([row.horizon == k for _, row in rows], dtype=float) for k in horizons)]
        if with_rate:
            columns.append(np.log([eta for eta, _ in rows]))
        hits = np.array([bool(strict(row)) for _, row in rows], dtype=float)
        found[seed] = float(np.linalg.lstsq(np.column_stack(columns), hits, rcond=None)[0][0])
        n += len(rows)
    return PerSeed(found, n)


def _proximity(evidence: Evidence, why: str) -> Measured:
    base = evidence[BASE]
    name = "proximity acceptance of linear less {}, all horizons"
    beside = [points(name.format("hold"), against(base, proximity, "linear", "hold"), why)]
    for predictor in ("hold", "random", "linear"):
        for k in _ends(base):
            label = f"proximity acceptance of {predictor} at K = {k}"
            beside.append(acceptance(label, base, predictor, k, proximity, why))
    return Measured([points(name.format("random"), against(base, proximity, "linear", "random"), why)], beside)


CLAIMS = (
    Claim(
        key="momentum-explodes",
        text="Extrapolating Adam's moments by equation 3 as printed inflates the loss at least tenfold at every "
        "horizon.",
        source="Table 6, section 5.1",
        control="none for the formula itself; whether the optimizer's state is to blame is the next claim",
        needs=(BASE,),
        measure=_momentum,
        lines=(Line(CATASTROPHE),),
        explains="none found here",
    ),
    Claim(
        key="state-is-unsuitable",
        text="Not the formula but the optimizer's state is to blame: its extrapolation inflates the loss beyond 5 % "
        "even with the right sign and learning rate.",
        source="section 5.1",
        control="the predictor adam: AdamW's own recurrences run on without gradient, with minus sign, learning rate "
        "and float32 moments",
        needs=(BASE,),
        measure=_optimizer_state,
        lines=(Line(HARMLESS),),
        falls_if="all",
        explains="equation 3 has neither the learning rate nor the minus sign; what moments in float16 add, the rows "
        "above say",
        notes=(
            "adam's moments decay, so that it moves at most about nine steps' worth however large K is; adam-constant "
            "keeps its speed, and its inflation grows with K. And harmless is not useful: whether adam predicts "
            "anything, its strict acceptance beside a random step's says.",
        ),
    ),
    Claim(
        key="stable-is-predictable",
        text="Prediction succeeds in the stable regime and fails outside: acceptance is at least five points higher "
        "there.",
        source="Tables 7 and 8, sections 1 and 5.2",
        control="a random step of the same length in every tensor: where a small step of any direction passes, passing "
        "shows no prediction",
        needs=(BASE,),
        measure=_by_regime,
        lines=(
            Line(
                MARGIN,
                explains="in the paper chaotic checkpoints were not swept; here acceptance outside the stable regime "
                "is about as high or higher",
            ),
            Line(
                MARGIN,
                explains="no random step was tried in the paper; what the prediction gains from the stable regime "
                "beyond it is less than five points",
            ),
        ),
        notes=(
            "The paper sweeps transition and stable checkpoints and says that acceptance is near zero at chaotic ones "
            "(sections 2.5 and 9). The rule asks for all of it; the paper's own two regimes alone are compared in the "
            "rows on stable less transition.",
            "hold, which moves nothing, is never accepted by strict: it cannot lower the loss.",
        ),
    ),
    Claim(
        key="regime-beyond-rate",
        text="The regime tells more about acceptance than the learning rate does: at equal rate, stable checkpoints "
        "are accepted at least five points more often.",
        source="sections 5.2 and 9",
        control="the learning rate over the interval, in runs at half, full and twice the rate and at three constant "
        "ones",
        needs=(BASE, *RATES),
        missing="no seed has stable and other checkpoints",
        measure=_beyond_rate,
        lines=(Line(MARGIN),),
        explains="the learning rate, which the label follows",
        notes=(
            "Least squares of accepted (0 or 1), for each seed on its own, then over seeds; acceptance is taken to be "
            "linear in the logarithm, in which the last interval of a cosine lies far from the others.",
        ),
    ),
    Claim(
        key="proximity-tells",
        text="Proximity acceptance (within 5 % of the present loss) shows more than that the step was short: the "
        'predictions "are often close".',
        source="Tables 9 and 10, section 5.3",
        control="hold, which moves nothing and passes always by construction, and a random step of the same length",
        needs=(BASE,),
        measure=_proximity,
        lines=(Line(MARGIN),),
        explains="a criterion that only asks for a small change, which a step passes by being short",
        notes=(
            "Where a random step passes always, no prediction can pass more often: then it is the criterion that "
            "cannot tell, whatever the prediction is worth. That most predictions pass, the paper's Table 9, is not in "
            "question.",
        ),
    ),
)
