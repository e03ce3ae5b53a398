"""The claims about prediction: momentum, acceptance by regime and by horizon, precision, proximity."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from leapverify.claims.evidence import BASE, CONSTANT, HALF_MOMENTS, Evidence, Records, common_seeds
from leapverify.claims.rule import (
    Bar,
    ClaimResult,
    Estimate,
    Quantity,
    finding,
    mean_over_seeds,
    rate_over_seeds,
    share_over_seeds,
)
from leapverify.io.records import Prediction

MARGIN = 0.05
"""Five points of acceptance: a smaller difference is no finding."""
CATASTROPHE = 10.0
"""Times the loss; the paper has 122 to 10,764."""
HARMLESS = 1.05
"""Times the loss: the paper's own bound of proximity."""
RATES = ("rate-half", "rate-double", *CONSTANT)
"""With the base study: the same interval at other rates."""

Verdict = Callable[[Prediction], bool | None]


def strict(row: Prediction) -> bool | None:
    """Whether the prediction lowered the loss; one that is not finite did not."""
    return False if row.status == "nonfinite" else row.strict


def proximity(row: Prediction) -> bool | None:
    """Whether the predicted loss is within 5 % of the present one."""
    return False if row.status == "nonfinite" else row.proximity


def predict_findings(evidence: Evidence) -> list[ClaimResult]:
    """The claims of section 5, but for precision and recognizers."""
    return [
        momentum_explodes(evidence),
        state_is_unsuitable(evidence),
        stable_is_predictable(evidence),
        regime_beyond_rate(evidence),
        proximity_tells(evidence),
    ]


def momentum_explodes(evidence: Evidence) -> ClaimResult:
    """Table 6."""
    base, why = evidence.get(BASE), evidence.why(BASE)
    every = base.horizons if base and base.horizons else _ends(base)
    bars = [Bar(_inflation(base, "momentum", k, why), CATASTROPHE) for k in every]
    return finding(
        "momentum-explodes",
        "Extrapolating Adam's moments by equation 3 as printed inflates the loss at least tenfold at every horizon.",
        "Table 6, section 5.1",
        "none for the formula itself; whether the optimizer's state is to blame is the next claim",
        bars,
        explains="none found here",
    )


def state_is_unsuitable(evidence: Evidence) -> ClaimResult:
    """Section 5.1: "fundamentally unsuitable"."""
    base, half = evidence.get(BASE), evidence.get(HALF_MOMENTS)
    why = evidence.why(BASE)
    bars = [Bar(_inflation(base, "adam", k, why), HARMLESS) for k in _ends(base)]
    beside = _inflations(base, why)
    for predictor in ("adam", "adam-constant"):
        for k in _ends(half):
            beside.append(_inflation(half, predictor, k, evidence.why(HALF_MOMENTS), "with moments kept in float16"))
    for predictor in ("adam", "random"):
        found = _rate_of(base, predictor, min(_ends(base)), strict, why)
        beside.append(Quantity(f"strict acceptance of {predictor} at the shortest horizon", found, "predictions", ".0f",
                               100, " %"))  # fmt: skip
    return finding(
        "state-is-unsuitable",
        "Not the formula but the optimizer's state is to blame: its extrapolation inflates the loss beyond 5 % even "
        "with the right sign and learning rate.",
        "section 5.1",
        "the predictor adam: AdamW's own recurrences run on without gradient, with minus sign, learning rate and "
        "float32 moments",
        bars,
        explains="equation 3 has neither the learning rate nor the minus sign; what moments in float16 add, the rows "
        "above say",
        beside=beside,
        notes=[
            "adam's moments decay, so that it moves at most about nine steps' worth however large K is; adam-constant "
            "keeps its speed, and its inflation grows with K. And harmless is not useful: whether adam predicts "
            "anything, its strict acceptance beside a random step's says."
        ],
        falls_if="all",
    )


def _ends(study: Records | None) -> list[int]:
    """The shortest and the longest horizon; the paper's, where there is no study."""
    return sorted({study.horizons[0], study.horizons[-1]}) if study and study.horizons else [5, 100]


def _inflation(study: Records | None, predictor: str, horizon: int, why: str, how: str = "") -> Quantity:
    """L_hat / L_t, geometric mean within and over seeds; the non-finite are left out."""
    logs: dict[int, list[float]] = defaultdict(list)
    for row in study.judged(predictor, horizon) if study else ():
        if row.loss_predicted is not None and row.loss_predicted > 0 and math.isfinite(row.loss_predicted):
            logs[row.seed].append(math.log(row.loss_predicted / row.loss_now))
    values = {seed: float(np.mean(of_seed)) for seed, of_seed in logs.items()}
    found = mean_over_seeds(values, sum(map(len, logs.values())), why or "no such prediction was finite")
    name = " ".join(filter(None, (f"L_hat/L_t of {predictor} at K = {horizon}", how)))
    return Quantity(name, found.through(math.exp), "predictions", ".4g")


def _inflations(study: Records | None, why: str) -> list[Quantity]:
    """Those of the optimizer's state at every horizon, but for the two that decide."""
    every, ends = study.horizons if study else (), _ends(study)
    found = [_inflation(study, "adam", k, why) for k in every if k not in ends]
    return found + [_inflation(study, "adam-constant", k, why) for k in every]


def _share(rows: Sequence[Prediction], judge: Verdict) -> tuple[float | None, int]:
    verdicts = [verdict for row in rows if (verdict := judge(row)) is not None]
    return (float(np.mean(verdicts)), len(verdicts)) if verdicts else (None, 0)


def _rate_of(
    study: Records | None, predictor: str, horizon: int | None, judge: Verdict, why: str, regime: str | None = None
) -> Estimate:
    """Acceptance of one predictor: of each seed, then over seeds."""
    rows = study.judged(predictor, horizon) if study else []
    values, n = {}, 0
    for seed in sorted({row.seed for row in rows}):
        own = [row for row in rows if row.seed == seed and regime in (None, row.regime)]
        share, count = _share(own, judge)
        if share is not None:
            values[seed], n = share, n + count
    return rate_over_seeds(values, n, why or "no such prediction was made")


Contrast = tuple[dict[int, float], int]
"""Seed -> difference, and the predictions behind all of them."""


def by_regime(study: Records, predictor: str, other: str | None = None) -> Contrast:
    """Strict acceptance at stable checkpoints less that at all other labelled ones (or of one regime), averaged over
    horizons."""
    found: dict[int, list[float]] = defaultdict(list)
    n = 0
    for k in study.horizons:
        rows = [row for row in study.judged(predictor, k) if other is None or row.regime in ("stable", other)]
        for seed in study.seeds:
            own = [row for row in rows if row.seed == seed and row.regime != "unknown"]
            inside, count = _share([row for row in own if row.regime == "stable"], strict)
            outside, others = _share([row for row in own if row.regime != "stable"], strict)
            if inside is not None and outside is not None:
                found[seed].append(inside - outside)
                n += count + others
    return {seed: float(np.mean(of_seed)) for seed, of_seed in found.items()}, n


def minus(a: Contrast, b: Contrast) -> Contrast:
    """The difference of two contrasts, over the seeds that have both."""
    return {seed: value - b[0][seed] for seed, value in a[0].items() if seed in b[0]}, a[1] + b[1]


def points(name: str, contrast: Contrast, why: str) -> Quantity:
    """A difference of shares, in points."""
    found = share_over_seeds(*contrast, why or "no seed has both")
    return Quantity(name, found, "predictions", "+.1f", 100, " points")


def stable_is_predictable(evidence: Evidence) -> ClaimResult:
    """Tables 7 and 8."""
    base, why = evidence.get(BASE), evidence.why(BASE)
    none: Contrast = ({}, 0)
    linear = by_regime(base, "linear") if base else none
    random = by_regime(base, "random") if base else none
    name = "strict acceptance of {}, stable less other checkpoints, all horizons"
    beside = [points(name.format("random"), random, why)]
    alone = by_regime(base, "linear", other="transition") if base else none
    against_random = minus(alone, by_regime(base, "random", other="transition")) if base else none
    of_two = "strict acceptance of linear, stable less transition, all horizons"
    beside += [points(of_two, alone, why), points(f"{of_two}, less random's", against_random, why)]
    for predictor in ("linear", "random", "quadratic"):
        for regime in ("chaotic", "transition", "stable"):
            k = min(_ends(base))
            found = _rate_of(base, predictor, k, strict, why, regime)
            label = f"strict acceptance of {predictor} at K = {k}, {regime}"
            beside.append(Quantity(label, found, "predictions", ".0f", 100, " %"))
    return finding(
        "stable-is-predictable",
        "Prediction succeeds in the stable regime and fails outside: acceptance is at least five points higher there.",
        "Tables 7 and 8, sections 1 and 5.2",
        "a random step of the same length in every tensor: where a small step of any direction passes, passing shows "
        "no prediction",
        [
            Bar(points(name.format("linear"), linear, why), MARGIN),
            Bar(points(f"{name.format('linear')}, less random's", minus(linear, random), why), MARGIN),
        ],
        explains=(
            "in the paper chaotic checkpoints were not swept; here acceptance outside the stable regime is about as "
            "high or higher",
            "no random step was tried in the paper; what the prediction gains from the stable regime beyond it is less "
            "than five points",
        ),
        beside=beside,
        notes=["The paper sweeps transition and stable checkpoints and says that acceptance is near zero at chaotic "
               "ones (sections 2.5 and 9). The rule asks for all of it; the paper's own two regimes alone are compared "
               "in the rows on stable less transition.",
               "hold, which moves nothing, is never accepted by strict: it cannot lower the loss."],
    )  # fmt: skip


def regime_beyond_rate(evidence: Evidence) -> ClaimResult:
    """Is acceptance in `stable` more than a small learning rate?"""
    studies = evidence.those((BASE, *RATES))
    why = evidence.why(BASE, *RATES) or "no seed has stable and other checkpoints"
    # Within one schedule the rate and the label both follow the clock: nothing could tell them apart.
    together = list(studies.values()) if len({study.peak for study in studies.values()}) > 1 else []
    name = "coefficient of stable for {}, beside {}the horizon"
    raw = stable_coefficient(together, "linear", with_rate=False)
    beside = [points(name.format("linear", ""), raw, why)]
    random = stable_coefficient(together, "random", with_rate=True)
    beside.append(points(name.format("random", "log of the sum of eta and "), random, why))
    for which in CONSTANT:
        found = by_regime(studies[which], "linear") if which in studies else ({}, 0)
        said = evidence.why(which) or "no seed has stable and other checkpoints at this rate"
        beside.append(points(f"strict acceptance of linear, stable less other, in {which}", found, said))
    own = stable_coefficient(together, "linear", with_rate=True)
    return finding(
        "regime-beyond-rate",
        "The regime tells more about acceptance than the learning rate does: at equal rate, stable checkpoints are "
        "accepted at least five points more often.",
        "sections 5.2 and 9",
        "the learning rate over the interval, in runs at half, full and twice the rate and at three constant ones",
        [Bar(points(name.format("linear", "log of the sum of eta and "), own, why), MARGIN)],
        explains="the learning rate, which the label follows",
        beside=beside,
        notes=["Least squares of accepted (0 or 1), for each seed on its own, then over seeds; acceptance is taken to "
               "be linear in the logarithm, in which the last interval of a cosine lies far from the others."],
    )  # fmt: skip


def stable_coefficient(studies: Sequence[Records], predictor: str, *, with_rate: bool) -> Contrast:
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
        accepted = np.array([bool(strict(row)) for _, row in rows], dtype=float)
        found[seed] = float(np.linalg.lstsq(np.column_stack(columns), accepted, rcond=None)[0][0])
        n += len(rows)
    return found, n


def against(
    study: Records,
    judge: Verdict,
    predictor: str,
    control: str,
    horizon: int | None = None,
    regime: str | None = None,
) -> Contrast:
    """Acceptance of a predictor less that of a control, averaged over horizons; each over the checkpoints it has."""
    found: dict[int, list[float]] = defaultdict(list)
    n = 0
    for k in study.horizons if horizon is None else (horizon,):
        sides: list[Mapping[tuple[int, int], bool]] = []
        for name in (predictor, control):
            rows = [row for row in study.judged(name, k) if regime in (None, row.regime)]
            sides.append({(row.seed, row.step): v for row in rows if (v := judge(row)) is not None})
        both = sides[0].keys() & sides[1].keys()
        for seed in study.seeds:
            own = [float(sides[0][key]) - float(sides[1][key]) for key in both if key[0] == seed]
            if own:
                found[seed].append(float(np.mean(own)))
                n += len(own)
    return {seed: float(np.mean(of_seed)) for seed, of_seed in found.items()}, n


def proximity_tells(evidence: Evidence) -> ClaimResult:
    """Table 9."""
    base, why = evidence.get(BASE), evidence.why(BASE)
    none: Contrast = ({}, 0)
    versus = against(base, proximity, "linear", "random") if base else none
    beside = [
        points(
            "proximity acceptance of linear less hold, all horizons",
            against(base, proximity, "linear", "hold") if base else none,
            why,
        )
    ]
    for predictor in ("hold", "random", "linear"):
        for k in _ends(base):
            found = _rate_of(base, predictor, k, proximity, why)
            label = f"proximity acceptance of {predictor} at K = {k}"
            beside.append(Quantity(label, found, "predictions", ".0f", 100, " %"))
    return finding(
        "proximity-tells",
        "Proximity acceptance (within 5 % of the present loss) shows more than that the step was short: the "
        "predictions \"are often close\".",
        "Tables 9 and 10, section 5.3",
        "hold, which moves nothing and passes always by construction, and a random step of the same length",
        [Bar(points("proximity acceptance of linear less random, all horizons", versus, why), MARGIN)],
        explains="a criterion that only asks for a small change, which a step passes by being short",
        beside=beside,
        notes=["Where a random step passes always, no prediction can pass more often: then it is the criterion that "
               "cannot tell, whatever the prediction is worth. That most predictions pass, the paper's Table 9, is not "
               "in question."],
    )  # fmt: skip
