"""The arms of a race side by side, and each leap arm against its own schedule shortened."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from leapverify.analysis.over_seeds import OverSeeds
from leapverify.analysis.race.paired import (
    Paired,
    Ratio,
    no_difference,
    no_ratio,
    over_seeds,
    paired_difference,
    paired_ratio,
)
from leapverify.io.records import RacePoint, RaceRun

BASELINE = "baseline"
SHORTENED = "shortened:"
ALWAYS, VERIFIED = "always:", "leap:"
"""Before a predictor's name: its leaps taken unconditionally, and verified."""
TASKS = ("pretrain", "finetune", "lora", "convex", "noise")
OPTIMIZERS = ("adamw", "muon", "sgd")
RATES = ("tuned", "usual")
ARMS = (
    BASELINE, "lr-x0.5", "lr-x2", "lr-x4", "wsd", "constant", "anneal", "schedule-free", "ema", "lawa", "lookahead",
    "always-accept", "always-reject", "leap-fixed", "leap-line-search", "leap-auto", "shadow",
)  # fmt: skip
"""In the order of the tables; others follow, and every `shortened:X` stands behind its X."""


class RaceCase(NamedTuple):
    """One race: a task with an optimizer at a learning rate."""

    task: str
    optimizer: str
    rate: str
    """tuned | usual."""

    def __str__(self) -> str:
        return "/".join(self)


def case_of(row: RaceRun | RacePoint) -> RaceCase:
    """The case of a run or of a reading."""
    return RaceCase(row.task, row.optimizer, row.rate)


Arms = Mapping[str, Mapping[int, RaceRun]]
"""Arm -> seed -> its run, arms in the order of `ARMS`."""


def by_case(runs: Iterable[RaceRun], *, predictors: bool = False) -> dict[RaceCase, Arms]:
    """The runs of the race itself (not those of tuning), case by case and arm by arm.

    Args:
        runs: the race's records.
        predictors: the arms of predictors too, of which there may be dozens; they have a table of their own.
    """
    found: dict[RaceCase, dict[str, dict[int, RaceRun]]] = {}
    for run in runs:
        if run.stage == "race" and (predictors or not is_of_predictor(run.arm)):
            found.setdefault(case_of(run), {}).setdefault(run.arm, {})[run.seed] = run
    ordered = sorted(found, key=lambda case: tuple(map(place_of, case, (TASKS, OPTIMIZERS, RATES))))
    return {case: {arm: found[case][arm] for arm in sorted(found[case], key=_arm_place)} for case in ordered}


def place_of(name: str, known: Sequence[str]) -> tuple[int, str]:
    """The place of a name among the known ones, others behind them by the alphabet."""
    return (known.index(name), "") if name in known else (len(known), name)


def _arm_place(arm: str) -> tuple[tuple[int, str], bool]:
    return place_of(arm.removeprefix(SHORTENED), ARMS), arm.startswith(SHORTENED)


def is_of_predictor(arm: str) -> bool:
    """Whether the arm is a predictor's, or the control of one."""
    return arm.removeprefix(SHORTENED).startswith((ALWAYS, VERIFIED))


def is_leap(arm: str) -> bool:
    """Whether the arm leaps by a policy of this package."""
    return arm.startswith("leap-")


def case_text(case: RaceCase, runs: Iterable[RaceRun]) -> str:
    """'pretrain, adamw', with the rate where the same task and optimizer were raced at more than one."""
    rates = {run.rate for run in runs if run.stage == "race" and (run.task, run.optimizer) == case[:2]}
    return f"{case.task}, {case.optimizer}" + (f", {case.rate} rate" if len(rates) > 1 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRow:
    """One arm of one case over its seeds; comparisons are with the same seeds' baseline."""

    case: RaceCase
    arm: str
    n: int
    """Seeds."""
    lr: float
    setting: str
    target: float | None
    final: OverSeeds
    """Final reported loss, over the seeds where it is finite."""
    nonfinite: int
    """Seeds where it is not."""
    difference: Paired
    """Of the final loss."""
    reached: int
    """Seeds that reached the target."""
    tokens_to_target: float | None
    """Median over all seeds in forward tokens, those that never reached it counted as beyond; None if it is beyond."""
    tokens: Ratio
    """Forward tokens to the target over the baseline's."""
    seconds: Ratio
    overhead_tokens: OverSeeds
    """The tool's part of the run's forward tokens, per cent."""
    overhead_tokens_max: float | None
    overhead_s: OverSeeds
    """The tool's part of the run's seconds, per cent."""
    overhead_s_max: float | None
    real_steps: float
    """Mean over seeds."""
    attempts: int
    """Of all seeds together."""
    accepted: int
    leapt_steps: float
    """Mean over seeds."""
    heldout_batches: float
    """Drawn, mean over seeds."""
    heldout_passes: float | None
    """Times through the held-out set, most of any seed; None where every batch is a new one."""


def arm_table(runs: Iterable[RaceRun]) -> list[ArmRow]:
    """Every arm of every case.

    Args:
        runs: the race's records; those of tuning are left out.

    Returns:
        One row per case and arm. Intervals are over seeds, p is one-sided ("lower than the baseline") and not
        corrected for the number of arms.
    """
    return [_arm_row(case, arm, arms) for case, arms in by_case(runs).items() for arm in arms]


def _arm_row(case: RaceCase, arm: str, arms: Arms) -> ArmRow:
    own = arms[arm]
    rows = [own[seed] for seed in sorted(own)]
    difference, tokens, seconds = _against_baseline(arm, arms)
    used = [row.heldout_passes for row in rows if row.heldout_passes is not None]
    to_target = statistics.median(math.inf if row.target_tokens is None else row.target_tokens for row in rows)
    overhead_tokens = {row.seed: 100.0 * row.overhead_tokens / row.tokens for row in rows if row.tokens > 0}
    overhead_s = {row.seed: 100.0 * row.overhead_s / row.seconds for row in rows if row.seconds > 0}
    settings = {row.setting for row in rows}
    losses = finals(own)
    known = {seed: loss for seed, loss in losses.items() if loss is not None}
    return ArmRow(
        case=case,
        arm=arm,
        n=len(rows),
        lr=rows[0].lr,
        setting=settings.pop() if len(settings) == 1 else "differs by seed",
        target=rows[0].target,
        final=over_seeds(known, "not finite on any seed"),
        nonfinite=len(losses) - len(known),
        difference=difference,
        reached=sum(row.target_tokens is not None for row in rows),
        tokens_to_target=to_target if math.isfinite(to_target) else None,
        tokens=tokens,
        seconds=seconds,
        overhead_tokens=over_seeds(overhead_tokens, "no forward tokens were recorded"),
        overhead_tokens_max=max(overhead_tokens.values(), default=None),
        overhead_s=over_seeds(overhead_s, "no seconds were recorded"),
        overhead_s_max=max(overhead_s.values(), default=None),
        real_steps=statistics.fmean(row.real_steps for row in rows),
        attempts=sum(row.attempts for row in rows),
        accepted=sum(row.accepted for row in rows),
        leapt_steps=statistics.fmean(row.leapt_steps for row in rows),
        heldout_batches=statistics.fmean(row.heldout_batches for row in rows),
        heldout_passes=max(used, default=None),
    )


def _against_baseline(arm: str, arms: Arms) -> tuple[Paired, Ratio, Ratio]:
    if arm == BASELINE or BASELINE not in arms:
        why = "this is the baseline" if arm == BASELINE else "no baseline was run"
        return no_difference(why), no_ratio(why), no_ratio(why)
    own, base, missing = arms[arm], arms[BASELINE], "no seed was run with both this arm and the baseline"
    return (
        paired_difference(finals(own), finals(base), missing),
        cost_ratio("target_tokens", own, base, missing),
        cost_ratio("target_s", own, base, missing),
    )


def finals(runs: Mapping[int, RaceRun]) -> dict[int, float | None]:
    """Seed -> final loss, None where it is not finite."""
    return {
        seed: run.final_loss if run.final_loss is not None and math.isfinite(run.final_loss) else None
        for seed, run in runs.items()
    }


def cost_ratio(column: str, arm: Mapping[int, RaceRun], other: Mapping[int, RaceRun], missing: str) -> Ratio:
    """The cost up to the target in a column of the records (`target_tokens`, `target_s`), arm over other."""
    own, against = ({seed: getattr(run, column) for seed, run in runs.items()} for runs in (arm, other))
    return paired_ratio(own, against, missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlRow:
    """A leap arm against the baseline's schedule shortened to the real steps that the arm took: the decisive control.

    Where the arm leapt over nothing its shortened schedule is the baseline itself, which then serves as the control.
    """

    case: RaceCase
    arm: str
    n: int
    """Seeds of the arm."""
    steps: int
    """Planned."""
    real_steps: tuple[int, int]
    """Fewest and most of any seed."""
    difference: Paired
    """Of the final loss, arm - control, with the one-sided p of "lower than the control"."""
    unleapt: int
    """Seeds without an accepted leap, where the baseline is the control."""
    absent: int
    """Seeds with leaps whose control was not run; they are left out."""
    attempts: int
    accepted: int

    @property
    def beaten(self) -> bool:
        """Whether the arm ends lower than its control beyond doubt, no seed left out."""
        return self.difference.lower and not self.absent


def against_shortened(runs: Iterable[RaceRun]) -> list[ControlRow]:
    """Every leap arm, and `always-accept`, against its own shortened schedule, paired by seed.

    Args:
        runs: the race's records.

    Returns:
        One row per case and arm that leaps; a comparison without a seed gives its reason.
    """
    return [
        control_row(case, arm, arms)
        for case, arms in by_case(runs).items()
        for arm in arms
        if is_leap(arm) or arm == "always-accept"
    ]


def control_row(case: RaceCase, arm: str, arms: Arms) -> ControlRow:
    """One arm of a case against its shortened schedule."""
    own, short, base = arms[arm], arms.get(SHORTENED + arm, {}), arms.get(BASELINE, {})
    ended = finals(own)
    unleapt = {seed for seed, run in own.items() if run.real_steps >= run.steps and seed in base}
    control = {seed: base[seed] for seed in unleapt} | {seed: short[seed] for seed in own.keys() & short.keys()}
    # A run that diverged stopped early; its leaps alone say how long its shortened schedule is.
    taken = [run.real_steps if ended[seed] is not None else run.steps - run.leapt_steps for seed, run in own.items()]
    return ControlRow(
        case=case,
        arm=arm,
        n=len(own),
        steps=max(run.steps for run in own.values()),
        real_steps=(min(taken), max(taken)),
        difference=paired_difference(finals(own), finals(control), f"{SHORTENED}{arm} was not run"),
        unleapt=len(unleapt),
        absent=len(own.keys() - control.keys()),
        attempts=sum(run.attempts for run in own.values()),
        accepted=sum(run.accepted for run in own.values()),
    )
