"""Recognizer skill: does a signal at a checkpoint rank it by whether a prediction made there succeeds?"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from leapverify.analysis.over_seeds import Bootstrap
from leapverify.analysis.study.acceptance import CRITERIA, require_known
from leapverify.core.statistics import auc, auc_difference_interval, auc_interval, spearman
from leapverify.io.records import Checkpoint, Prediction

SIGNALS: dict[str, Callable[[Checkpoint], float | None]] = {
    "similarity": lambda row: row.similarity,
    "similarity_centred": lambda row: row.similarity_centred,
    "straightness": lambda row: row.straightness,
    "loss_curvature": lambda row: None if row.loss_curvature is None else -abs(row.loss_curvature),
    "step": lambda row: float(row.step),
}
"""Signals by name, each so that more of it should mean predictable (curvature: minus its size).

`step` is the control: a recognizer that does not beat the clock has recognised how late it is.
"""

CLOCK = "step"

Paired = tuple[list[float], list[bool], list[int]]
"""A seed's signal, verdicts and steps."""

FEWEST_OF_A_CLASS = 5
"""Of successes and of failures: below it resampling seeds repeats the same few, and the interval is a pretence."""


@dataclass(frozen=True, slots=True)
class Skill:
    """ROC AUC of a signal for the success of one predictor at one horizon by one criterion."""

    signal: str
    predictor: str
    horizon: int
    criterion: str
    auc: float | None
    """Seeds pooled; 0.5 recognises nothing, below 0.5 the signal points the wrong way."""
    low: float | None
    """95 % bootstrap interval over seeds, or the level asked for."""
    high: float | None
    n: int
    """Predictions that were judged at a checkpoint with the signal."""
    successes: int
    seeds: int
    reason: str | None
    """Why the area or its interval is missing."""
    clock: float | None = None
    """AUC of the step for the same events, in whichever direction it is better: max(AUC, 1 - AUC)."""
    beyond_clock: float | None = None
    """auc - clock: a signal that does not beat the clock recognises nothing but the schedule."""
    beyond_low: float | None = None
    """Interval over seeds of `beyond_clock`."""
    beyond_high: float | None = None


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman rank correlation with its bootstrap interval over seeds."""

    rho: float | None
    low: float | None
    high: float | None
    n: int
    """Checkpoints that have both values, all seeds pooled."""
    seeds: int
    reason: str | None


def recognizer_skill(
    checkpoints: Sequence[Checkpoint],
    predictions: Sequence[Prediction],
    criterion: str = "strict",
    *,
    signals: Mapping[str, Callable[[Checkpoint], float | None]] = SIGNALS,
    bootstrap: Bootstrap | None = None,
) -> list[Skill]:
    """How well each signal ranks checkpoints by the success of each predictor at each horizon.

    AUC = share of (success, failure) pairs in which the success has the higher signal, ties half, seeds pooled.
    A prediction that is not finite is a failure, a declined one does not count. Checkpoints at which nothing was
    predicted (chaotic ones, unless the sweep covers all) cannot enter: the skill is that within the others.

    Args:
        checkpoints: the records of all seeds.
        predictions: the sweep's rows of the same seeds.
        criterion: strict | adaptive | proximity | paired.
        signals: name -> signal of a checkpoint, None where it does not exist.
        bootstrap: draws, level and seed of the interval.

    Returns:
        One row per signal, predictor and horizon.

    Raises:
        ValueError: unknown criterion; a prediction from a checkpoint that is not among the checkpoints.
    """
    require_known("criterion", criterion, CRITERIA)
    at = {(row.seed, row.step): row for row in checkpoints}
    cells: dict[tuple[str, int], list[Prediction]] = defaultdict(list)
    for row in predictions:
        if (row.seed, row.step) not in at:
            raise ValueError(
                f"seed {row.seed} predicts from step {row.step}, which has no checkpoint: give both in full"
            )
        cells[row.predictor, row.horizon].append(row)
    order = list(dict.fromkeys(predictor for predictor, _ in cells))
    keys = sorted(cells, key=lambda key: (order.index(key[0]), key[1]))
    found = []
    for name, signal in signals.items():
        values = {where: signal(row) for where, row in at.items()}
        for key in keys:
            groups = _groups(cells[key], values, criterion)
            skill = _skill((name, *key, criterion), groups, cells[key], bootstrap or Bootstrap())
            found.append(_against_clock(skill, groups, bootstrap or Bootstrap()))
    return found


def lyapunov_correlation(checkpoints: Sequence[Checkpoint], *, bootstrap: Bootstrap | None = None) -> Correlation:
    """Rank correlation of the local Lyapunov exponent with the configured similarity, seeds pooled.

    Negative where small similarity goes with fast divergence, as the name `chaotic` claims.

    Args:
        checkpoints: the records of all seeds.
        bootstrap: draws, level and seed of the interval over seeds.

    Returns:
        The correlation; None with a reason where the pass was not asked for or nothing varies.
    """
    groups: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for row in checkpoints:
        if _finite(row.lyapunov) and _finite(row.similarity):
            groups[row.seed].append((row.lyapunov, row.similarity))  # type: ignore[arg-type]  # just checked
    n = sum(map(len, groups.values()))
    if not any(row.lyapunov is not None for row in checkpoints):
        return Correlation(None, None, None, n, 0, "the Lyapunov pass was not asked for")
    chosen = bootstrap or Bootstrap()
    rho = _pooled_spearman(list(groups.values()))
    low, high = (chosen.interval(list(groups.values()), _pooled_spearman) if rho is not None else None) or (None, None)
    reason = "fewer than three checkpoints have both, or one of them does not vary" if rho is None else None
    if rho is not None and low is None:
        reason = _no_interval(len(groups))
    return Correlation(rho, low, high, n, len(groups), reason)


def _groups(
    rows: Sequence[Prediction], values: Mapping[tuple[int, int], float | None], criterion: str
) -> dict[int, Paired]:
    """Per seed the signal's values and whether the predictions made there were accepted."""
    groups: dict[int, Paired] = defaultdict(lambda: ([], [], []))
    for row in rows:
        verdict = False if row.status == "nonfinite" else getattr(row, criterion)
        value = values[row.seed, row.step]
        if row.status != "declined" and verdict is not None and value is not None and math.isfinite(value):
            scores, successes, steps = groups[row.seed]
            scores.append(value)
            successes.append(verdict)
            steps.append(row.step)
    return groups


def _skill(
    key: tuple[str, str, int, str], groups: Mapping[int, Paired], rows: Sequence[Prediction], bootstrap: Bootstrap
) -> Skill:
    scores = [score for seed in groups for score in groups[seed][0]]
    hits = [hit for seed in groups for hit in groups[seed][1]]
    area = auc(scores, hits)
    if area is None:
        return Skill(*key, None, None, None, len(hits), sum(hits), len(groups), _why_none(hits, rows))
    rarer = min(sum(hits), len(hits) - sum(hits))
    if rarer < FEWEST_OF_A_CLASS:
        kind = "succeed" if sum(hits) == rarer else "fail"
        few = f"only {rarer} of {len(hits)} {kind}: too few for an interval"
        return Skill(*key, area, None, None, len(hits), sum(hits), len(groups), few)
    settings = {"seed": bootstrap.seed, "draws": bootstrap.draws}
    scored = [(scores, verdicts) for scores, verdicts, _ in groups.values()]
    interval = auc_interval(scored, level=bootstrap.level, **settings)
    low, high = interval or (None, None)
    reason = None if interval else _no_interval(len(groups))
    return Skill(*key, area, low, high, len(hits), sum(hits), len(groups), reason)


def _against_clock(skill: Skill, groups: Mapping[int, Paired], bootstrap: Bootstrap) -> Skill:
    """The skill with that of the step beside it, for the very same predictions."""
    if skill.auc is None or skill.signal == CLOCK:
        return skill
    steps = [step for _, _, of_seed in groups.values() for step in of_seed]
    raw = auc(steps, [hit for _, hits, _ in groups.values() for hit in hits])
    assert raw is not None  # the same verdicts have given the signal an area
    sign = 1 if raw >= 0.5 else -1
    clock = max(raw, 1 - raw)
    low = high = None
    if skill.low is not None:
        one = [(scores, hits) for scores, hits, _ in groups.values()]
        two = [([sign * step for step in of_seed], hits) for _, hits, of_seed in groups.values()]
        settings = {"seed": bootstrap.seed, "draws": bootstrap.draws}
        low, high = auc_difference_interval(one, two, level=bootstrap.level, **settings) or (None, None)
    return dataclasses.replace(skill, clock=clock, beyond_clock=skill.auc - clock, beyond_low=low, beyond_high=high)


def _why_none(hits: Sequence[bool], rows: Sequence[Prediction]) -> str:
    if hits:
        return f"all {len(hits)} {'succeed' if hits[0] else 'fail'}: there is nothing to rank"
    if all(row.status == "declined" for row in rows):
        return f"all {len(rows)} predictions declined"
    return "the signal or the verdict is missing at every checkpoint with a prediction"


def _no_interval(seeds: int) -> str:
    return "one seed has no interval over seeds" if seeds < 2 else "most resamples of the seeds lack one of the classes"


def _pooled_spearman(groups: Sequence[Sequence[tuple[float, float]]]) -> float | None:
    pairs = [pair for group in groups for pair in group]
    return spearman([a for a, _ in pairs], [b for _, b in pairs])


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
