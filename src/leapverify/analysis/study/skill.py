"""Recognizer skill: does a signal at a checkpoint rank it by whether a prediction made there succeeds?"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from leapverify.analysis.over_seeds import interval_over
from leapverify.analysis.study.acceptance import require_known
from leapverify.analysis.vocabulary import CRITERIA
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
FEWEST_OF_A_CLASS = 5
"""Of successes and of failures: below it resampling seeds repeats the same few, and the interval is a pretence."""
DRAWS = 0
"""Seed of the resampling."""


class ScoredSeed(NamedTuple):
    """One seed's predictions: the signal where each was made, whether it was accepted, and its step."""

    scores: list[float]
    hits: list[bool]
    steps: list[int]


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
    """95 % bootstrap interval over seeds."""
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
) -> list[Skill]:
    """How well each signal ranks checkpoints by the success of each predictor at each horizon.

    AUC = share of (success, failure) pairs in which the success has the higher signal, ties half, seeds pooled.
    A prediction that is not finite is a failure, a declined one does not count. Checkpoints at which nothing was
    predicted (chaotic ones, unless the sweep covers all) cannot enter: the skill is that within the others.

    Args:
        checkpoints: the records of all seeds.
        predictions: the sweep's rows of the same seeds.
        criterion: strict | adaptive | proximity | paired.

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
    for name, signal in SIGNALS.items():
        values = {where: signal(row) for where, row in at.items()}
        for key in keys:
            groups = _groups(cells[key], values, criterion)
            found.append(_against_clock(_skill((name, *key, criterion), groups, cells[key]), groups))
    return found


def lyapunov_correlation(checkpoints: Sequence[Checkpoint]) -> Correlation:
    """Rank correlation of the local Lyapunov exponent with the configured similarity, seeds pooled.

    Negative where small similarity goes with fast divergence, as the name `chaotic` claims.

    Args:
        checkpoints: the records of all seeds.

    Returns:
        The correlation; None with a reason where the pass was not asked for or nothing varies.
    """
    if not any(row.lyapunov is not None for row in checkpoints):
        return Correlation(None, None, None, 0, 0, "the Lyapunov pass was not asked for")
    pairs: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for row in checkpoints:
        if _finite(row.lyapunov) and _finite(row.similarity):
            pairs[row.seed].append((row.lyapunov, row.similarity))  # type: ignore[arg-type]  # just checked
    groups = list(pairs.values())
    rho, n = _pooled_spearman(groups), sum(map(len, groups))
    if rho is None:
        reason = "fewer than three checkpoints have both, or one of them does not vary"
        return Correlation(None, None, None, n, len(groups), reason)
    low, high = interval_over(groups, _pooled_spearman) or (None, None)
    return Correlation(rho, low, high, n, len(groups), _no_interval(len(groups)) if low is None else None)


def _groups(
    rows: Sequence[Prediction], values: Mapping[tuple[int, int], float | None], criterion: str
) -> list[ScoredSeed]:
    """Of each seed the predictions that were judged at a checkpoint with the signal."""
    groups: dict[int, ScoredSeed] = defaultdict(lambda: ScoredSeed([], [], []))
    for row in rows:
        verdict = False if row.status == "nonfinite" else getattr(row, criterion)
        value = values[row.seed, row.step]
        if row.status != "declined" and verdict is not None and value is not None and math.isfinite(value):
            of_seed = groups[row.seed]
            of_seed.scores.append(value)
            of_seed.hits.append(verdict)
            of_seed.steps.append(row.step)
    return list(groups.values())


def _skill(key: tuple[str, str, int, str], groups: Sequence[ScoredSeed], rows: Sequence[Prediction]) -> Skill:
    hits = [hit for seed in groups for hit in seed.hits]
    area = auc([score for seed in groups for score in seed.scores], hits)
    counts = (len(hits), sum(hits), len(groups))
    if area is None:
        return Skill(*key, None, None, None, *counts, _why_none(hits, rows))
    rarer = min(sum(hits), len(hits) - sum(hits))
    if rarer < FEWEST_OF_A_CLASS:
        kind = "succeed" if sum(hits) == rarer else "fail"
        few = f"only {rarer} of {len(hits)} {kind}: too few for an interval"
        return Skill(*key, area, None, None, *counts, few)
    interval = auc_interval([(seed.scores, seed.hits) for seed in groups], seed=DRAWS)
    low, high = interval or (None, None)
    return Skill(*key, area, low, high, *counts, None if interval else _no_interval(len(groups)))


def _against_clock(skill: Skill, groups: Sequence[ScoredSeed]) -> Skill:
    """The skill with that of the step beside it, for the very same predictions."""
    if skill.auc is None or skill.signal == CLOCK:
        return skill
    raw = auc([step for seed in groups for step in seed.steps], [hit for seed in groups for hit in seed.hits])
    assert raw is not None  # the same verdicts have given the signal an area
    sign, clock = (1 if raw >= 0.5 else -1), max(raw, 1 - raw)
    low = high = None
    if skill.low is not None:
        one = [(seed.scores, seed.hits) for seed in groups]
        two = [([sign * step for step in seed.steps], seed.hits) for seed in groups]
        low, high = auc_difference_interval(one, two, seed=DRAWS) or (None, None)
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
