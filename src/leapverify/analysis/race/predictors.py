"""Each predictor of a race against the schedule shortened to its real steps: verified, and applied unconditionally."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from leapverify.analysis.over_seeds import FEWEST_SEEDS
from leapverify.analysis.race.arms import (
    ALWAYS,
    BASELINE,
    VERIFIED,
    Arms,
    ControlRow,
    RaceCase,
    by_case,
    control_row,
    finals,
)
from leapverify.analysis.race.paired import Paired, paired_difference
from leapverify.analysis.wording import counted, listed
from leapverify.io.records import RaceRun

CONTROL_PREDICTORS = ("hold", "random")
"""What predictors that know nothing do: they are raced like the others and counted apart."""
HOLD = "hold"


def short_name(predictor: str) -> str:
    """A predictor's name, of a file that it reads only the last part."""
    name, colon, path = predictor.partition(":")
    return f"{name}{colon}{PurePath(path).name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorTrial:
    """One way to apply a predictor, over the seeds of a case."""

    control: ControlRow
    leapt_steps: float
    """Mean over seeds."""
    baseline: Paired
    """Of the final loss, against the whole schedule."""

    @property
    def word(self) -> str:
        """no leap | lower | higher | open | too few seeds: the final loss beside the shortened schedule's."""
        found = self.control.difference
        if not self.control.accepted:
            return "no leap"
        if self.control.beaten:
            return "lower"
        if found.seeds < FEWEST_SEEDS and not found.arm_failed:
            return "too few seeds"
        diverged = found.arm_failed >= FEWEST_SEEDS
        return "higher" if diverged or (found.low is not None and found.low > 0.0) else "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorRow:
    """One predictor in one case."""

    case: RaceCase
    predictor: str
    verified: PredictorTrial | None
    """None where that arm was not run."""
    always: PredictorTrial | None


def against_schedule(runs: Iterable[RaceRun]) -> list[PredictorRow]:
    """Every predictor that was raced, in every case: those that end lowest when verified first.

    Args:
        runs: the race's records; those of tuning are left out.

    Returns:
        One row per case and predictor. Differences are of final losses, arm - its shortened schedule, paired by seed; p
        is one-sided ("lower than the control") and not corrected for the number of predictors.
    """
    rows = []
    for case, arms in by_case(runs, predictors=True).items():
        names = dict.fromkeys(
            arm.removeprefix(mark) for arm in arms for mark in (ALWAYS, VERIFIED) if arm.startswith(mark)
        )
        found = [
            PredictorRow(
                case=case,
                predictor=name,
                verified=_tried(case, VERIFIED + name, arms),
                always=_tried(case, ALWAYS + name, arms),
            )
            for name in names
        ]
        rows += sorted(found, key=_place)
    return rows


def _tried(case: RaceCase, arm: str, arms: Arms) -> PredictorTrial | None:
    if arm not in arms:
        return None
    own = arms[arm]
    return PredictorTrial(
        control=control_row(case, arm, arms),
        leapt_steps=statistics.fmean(run.leapt_steps for run in own.values()),
        baseline=paired_difference(finals(own), finals(arms.get(BASELINE, {})), "no baseline was run"),
    )


def _place(row: PredictorRow) -> tuple[bool, float, float, str]:
    """Leaps first, by the mean difference when verified, then when applied unconditionally."""
    leaps = row.verified is not None and row.verified.control.accepted > 0
    return (not leaps, _mean(row.verified) if leaps else 0.0, _mean(row.always), row.predictor)


def _mean(tried: PredictorTrial | None) -> float:
    mean = tried.control.difference.mean if tried is not None else None
    return math.inf if mean is None else mean


def outcome_text(rows: Iterable[PredictorRow]) -> str:
    """How many of a case's predictors ended below and above their shortened schedules, those below by name."""
    every = list(rows)
    said = []
    for way, tried in (
        ("verified", {row.predictor: row.verified for row in every if row.verified is not None}),
        ("applied unconditionally", {row.predictor: row.always for row in every if row.always is not None}),
    ):
        words = {name: each.word for name, each in tried.items() if name not in CONTROL_PREDICTORS}
        if not words:
            continue
        lower = [short_name(name) for name, word in words.items() if word == "lower"]
        named = f" ({listed(lower)})" if lower else ""
        counts = {word: list(words.values()).count(word) for word in ("higher", "no leap", "too few seeds")}
        rest = [f"{counts['higher']} above it"]
        rest += [f"{counts['no leap']} never leapt"] if counts["no leap"] else []
        rest += [f"{counts['too few seeds']} with too few seeds to say"] if counts["too few seeds"] else []
        text = f"{way}, {len(lower)} of {counted(len(words), 'predictor')}{named} ended below the schedule shortened"
        moved = tried[HOLD].word if HOLD in tried else ""
        held = f" (hold, which moves nothing, is {moved} too)" if moved in ("lower", "higher") else ""
        said.append(f"{text} to as many real steps, {listed(rest)}{held}")
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}."
