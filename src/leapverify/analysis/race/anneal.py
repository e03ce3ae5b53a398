"""Constant rate and annealing against the tuned WSD schedule: how many steps are saved to the same loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from leapverify.analysis.over_seeds import OverSeeds
from leapverify.analysis.race.arms import SHORTENED, RaceCase, by_case, case_of, finals
from leapverify.analysis.race.paired import Paired, Ratio, one_sided_p, over_seeds, paired_difference, paired_ratio
from leapverify.io.records import RacePoint, RaceRun

ANNEAL, WSD = "anneal", "wsd"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnealRow:
    """One case: the first step at which the annealed loss was as low as the same seed's final WSD loss."""

    case: RaceCase
    n: int
    """Seeds with both arms and a finite WSD loss."""
    wsd_steps: int
    """Real steps of the WSD run, decay included; the most of any seed."""
    resolution: int | None
    """Steps between two readings of the annealed loss, the widest gap; None without two."""
    reached: int
    """Seeds on which the annealed loss got there."""
    saved: OverSeeds
    """WSD's real steps less the step of that reading, over the seeds that got there."""
    p: float | None
    """One-sided, of "fewer steps", over all n seeds; None without a seed."""
    tokens: Ratio
    """Forward tokens up to that reading, the cost of annealing at every reading included, over those of the WSD run."""
    control: Paired
    """Annealed loss there less the final loss of WSD shortened to that many steps."""
    reason: str | None
    """Why there is nothing to say; None if there is."""


def first_reached(points: Iterable[RacePoint], loss: float) -> RacePoint | None:
    """The first reading after the first step at or below a loss; None if there is none.

    Args:
        points: the readings of one run.
        loss: in the unit of the readings.
    """
    for point in sorted(points, key=lambda reading: reading.step):
        if point.step and point.loss is not None and math.isfinite(point.loss) and point.loss <= loss:
            return point
    return None


def anneal_against_wsd(runs: Iterable[RaceRun], points: Iterable[RacePoint]) -> list[AnnealRow]:
    """Steps that a constant rate with annealing saves over the tuned WSD baseline, paired by seed.

    saved = real steps of WSD - first real step with annealed loss <= that seed's final WSD loss. A seed that never got
    there has no number; the test counts it as having lost as many steps as the best seed saved. Steps are as fine as
    the readings lie apart. The first of many readings at or below a loss is a lucky one, which favours annealing a
    little; the shortened WSD run shows what its own decay reaches in as many steps.

    Args:
        runs: the race's records.
        points: the readings of the reported loss, annealed ones in the arm `anneal`.

    Returns:
        One row per case that has either arm; `reason` says what is missing.
    """
    readings: dict[tuple[RaceCase, int], list[RacePoint]] = {}
    for point in points:
        if point.stage == "race" and point.arm == ANNEAL:
            readings.setdefault((case_of(point), point.seed), []).append(point)
    cases = by_case(runs)
    return [_row(case, arms, readings) for case, arms in cases.items() if ANNEAL in arms or WSD in arms]


def _row(
    case: RaceCase, arms: Mapping[str, Mapping[int, RaceRun]], readings: Mapping[tuple[RaceCase, int], list[RacePoint]]
) -> AnnealRow:
    wsd, own = arms.get(WSD, {}), arms.get(ANNEAL, {})
    goals = {seed: loss for seed, loss in finals(wsd).items() if seed in own and loss is not None}
    there = {seed: first_reached(readings.get((case, seed), ()), loss) for seed, loss in goals.items()}
    saved = {seed: float(wsd[seed].real_steps - point.step) for seed, point in there.items() if point}
    summary = over_seeds(saved, "the annealed loss never was as low")
    return AnnealRow(
        case=case,
        n=len(goals),
        wsd_steps=max((run.real_steps for run in wsd.values()), default=0),
        resolution=_resolution([readings.get((case, seed), ()) for seed in goals]),
        reached=len(saved),
        saved=summary,
        p=one_sided_p(_costs(saved, len(goals))) if goals else None,
        tokens=paired_ratio(
            {seed: point.tokens if point else None for seed, point in there.items()},
            {seed: wsd[seed].tokens for seed in there},
            "no seed has both",
        ),
        control=paired_difference(
            {seed: point.loss for seed, point in there.items() if point},
            finals(arms.get(SHORTENED + ANNEAL, {})),
            f"{SHORTENED}{ANNEAL} was not run",
        ),
        reason=_missing(own, wsd, goals, any(case == known for known, _ in readings)),
    )


def _resolution(courses: Iterable[Iterable[RacePoint]]) -> int | None:
    steps = [sorted(point.step for point in course) for course in courses]
    return max((b - a for course in steps for a, b in itertools.pairwise(course)), default=None)


def _costs(saved: Mapping[int, float], seeds: int) -> list[float]:
    # A seed without a number must not help: it counts as the mirror image of the best one, at the least as one step.
    worst = max(1.0, *(abs(value) for value in saved.values())) if saved else 1.0
    return [-value for value in saved.values()] + [worst] * (seeds - len(saved))


def _missing(
    own: Mapping[int, RaceRun], wsd: Mapping[int, RaceRun], goals: Mapping[int, float], read: bool
) -> str | None:
    if not own or not wsd:
        return f"no {ANNEAL if not own else WSD} arm was run"
    if not goals:
        return "no seed has both arms with a finite WSD loss"
    return None if read else "no reading of the annealed loss was recorded"
