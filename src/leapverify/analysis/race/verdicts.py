"""What a race shows, in plain sentences; 'did not pay' is said as plainly as 'paid'."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from leapverify.analysis.race.anneal import AnnealRow
from leapverify.analysis.race.arms import BASELINE, ArmRow, ControlRow
from leapverify.analysis.race.judge import HEADLINE, Judgement
from leapverify.analysis.race.predictors import outcome_text
from leapverify.analysis.race.race import BUDGET_PERCENT, RaceAnalysis
from leapverify.analysis.race.wording import difference_text, never_text, percent_text, ratio_text, unit_of
from leapverify.analysis.wording import counted, listed, p_text
from leapverify.io.records import RacePoint, RaceRun

ENOUGH_SEEDS = 8
"""Asked for by the protocol of a proof of a speed-up."""
CLEAR_P = 0.01
"""Asked for of the question whether annealing beats WSD."""
TUNED = (BASELINE, "wsd")
"""Schedules whose tuning a verdict leans on."""


class ArmVerdict(NamedTuple):
    """One answer: what it is about, and a sentence or more."""

    topic: str
    text: str


def verdicts(
    runs: Iterable[RaceRun], points: Iterable[RacePoint] | None = None, *, budget_percent: float = BUDGET_PERCENT
) -> list[str]:
    """The race's answers as plain sentences, 'pretrain, adamw: leaping did not pay on this run: ...'.

    Args:
        runs: the race's records, tuning included.
        points: the readings of the reported loss; without them nothing can be said of annealing.
        budget_percent: of the whole cost, what `leap-auto` was allowed to spend.
    """
    found = race_verdicts(RaceAnalysis(list(runs), list(points or ()), budget_percent))
    return [f"{each.topic}: {each.text}" for each in found]


def race_verdicts(race: RaceAnalysis) -> list[ArmVerdict]:
    """One answer for each case, then annealing, the overhead of `leap-auto`, and how far to trust all that."""
    judged, tried = race.judgements, race.predictors
    leaps = bool(judged or not tried)
    found = [
        ArmVerdict(race.names[case], _case_text([entry for entry in judged if entry.case == case]))
        for case in (race.by_case if leaps else ())
    ]
    for case in dict.fromkeys(row.case for row in tried):
        said = outcome_text([row for row in tried if row.case == case])
        found.append(ArmVerdict(f"predictors, {race.names[case]}", said))
    pretrain = [row for row in race.annealing if row.case.task == "pretrain"]
    found += [ArmVerdict(f"anneal, {race.names[row.case]}", _anneal_text(row)) for row in pretrain or race.annealing]
    if leaps:
        found.append(ArmVerdict(f"overhead of {HEADLINE}", _overhead_text(race)))
    return [*found, ArmVerdict("how far to trust this", _trust_text(race))]


def _case_text(judged: Sequence[Judgement]) -> str:
    if not judged:
        return "cannot say whether leaping pays: no leap arm was run."
    first, others = judged[0], judged[1:]
    text = f"{_lead(first)}: {_control_clause(first)}; {_cost_clause(first)}."
    if first.case.task == "convex" and first.row.tokens.mean is not None:
        text += f" {_saving(first)}"
    same = [entry.arm for entry in others if _lead(entry) == _lead(first)]
    rest = [f"With {entry.arm}, {_lead(entry)}." for entry in others if entry.arm not in same]
    if same:
        rest.insert(0, f"The same holds for {listed(same)}.")
    return " ".join([text, *rest])


def _lead(judged: Judgement) -> str:
    if judged.unsure:
        return f"cannot say whether leaping pays ({judged.unsure})"
    if judged.pays:
        return "leaping paid on this run"
    opponents = {
        "the baseline": judged.beats_baseline,
        "its schedule shortened by the steps saved": judged.beats_control,
    }
    if not any(opponents.values()):
        return "leaping did not pay on this run"
    if judged.rival:
        opponents[judged.rival] = judged.beats_rival
    beaten = [name for name, won in opponents.items() if won]
    unbeaten = [name for name, won in opponents.items() if not won] or ["the baseline's seconds"]
    return f"leaping beat {listed(beaten)} but not {listed(unbeaten, ' or ')}, so it did not pay on this run"


def _control_clause(judged: Judgement) -> str:
    control = judged.control
    if not control.accepted:
        tries = f"none of its {counted(control.attempts, 'attempt')}" if control.attempts else "no attempt at all"
        verb = "accepted" if control.attempts else "made"
        return f"{judged.arm} {verb} {tries} on {counted(control.n, 'seed')}, so it is the baseline and its own cost"
    if control.difference.mean is None:
        return f"{judged.arm} {difference_text(control.difference, '', 'its shortened schedule')}"
    text = difference_text(
        control.difference, unit_of(judged.case.task), f"the same schedule shortened to {_steps(control)}"
    )
    if control.absent:
        text += f", which was not run on {counted(control.absent, 'seed')}"
    return f"{judged.arm} ended {text}"


def _steps(control: ControlRow) -> str:
    fewest, most = control.real_steps
    shown = str(fewest) if fewest == most else f"{fewest} to {most}"
    return f"its {shown} real steps of {control.steps}"


def _cost_clause(judged: Judgement) -> str:
    arm, found = judged.arm, judged.row.tokens
    if not found.seeds:
        return f"the cost to the target cannot be compared ({found.reason})"
    never = never_text(found, arm, f"the {BASELINE}")
    if found.mean is None:
        return f"no ratio of the cost to the target: {never}"
    text = f"it reached the target with {ratio_text(found)} the {BASELINE}'s forward tokens"
    if judged.row.seconds.mean is not None:
        text += f" and {ratio_text(judged.row.seconds)} its seconds"
    rival = judged.against_rival
    if judged.rival and rival.mean is not None:
        text += f", and with {ratio_text(rival)} the tokens of {judged.rival}, the best larger rate or average"
    elif judged.rival:
        missing = never_text(rival, arm, judged.rival)
        text += f"; against {judged.rival}, the best larger rate or average: {missing or rival.reason}"
    return text + (f" ({never})" if never else "")


def _saving(judged: Judgement) -> str:
    found = judged.row.tokens
    shown = f"That saves {100.0 * (1.0 - (found.mean or 0.0)):.0f} % of the forward tokens to the target"
    if found.low is not None and found.high is not None:
        shown += f" (95 % {100 * (1 - found.high):.0f} to {100 * (1 - found.low):.0f} %)".replace("-", "−")
    return f"{shown}."


def _anneal_text(row: AnnealRow) -> str:
    if row.reason or row.p is None:
        return f"cannot say: {row.reason or 'no seed has both arms'}."
    shown = row.n >= ENOUGH_SEEDS and row.p < CLEAR_P and (row.saved.mean or 0.0) > 0
    lead = "constant rate + anneal reached the loss of the tuned WSD baseline in fewer steps" if shown else (
        "not shown that constant rate + anneal reaches the loss of the tuned WSD baseline in fewer steps"
    )  # fmt: skip
    doubts = [] if row.n >= ENOUGH_SEEDS else [f"n = {row.n} is below the {ENOUGH_SEEDS} seeds asked for"]
    if row.p >= CLEAR_P:
        doubts.append(f"p = {p_text(row.p)} is not below {CLEAR_P}")
    text = lead + (f" ({listed(doubts)})" if doubts else "")
    text += f": it got there on {row.reached} of {row.n} seeds"
    if row.saved.mean is not None:
        text += f", {_saved(row)} WSD's {row.wsd_steps} steps (one-sided p = {p_text(row.p)})"
        text += f" and with {ratio_text(row.tokens)} its forward tokens, every reading charged"
    if row.resolution:
        text += f", readings {row.resolution} steps apart"
    if row.reached < row.n:
        text += "; the other seeds count against it in the test"
    unit = unit_of(row.case.task)
    control = difference_text(row.control, unit, "that of WSD shortened to as many steps")
    if row.control.mean is None:
        return f"{text}. Its loss there {control}."
    said = "" if row.control.lower else ", so cannot say that a shorter WSD run would not do as well"
    return f"{text}. Its loss there is {control}{said}."


def _saved(row: AnnealRow) -> str:
    mean = row.saved.mean or 0.0
    sign = -1.0 if mean < 0 else 1.0
    interval = "one seed, no interval"
    if row.saved.low is not None and row.saved.high is not None:
        low, high = sorted((sign * row.saved.low, sign * row.saved.high))
        interval = f"95 % {low:.0f} to {high:.0f}".replace("-", "−")
    return f"{abs(mean):.0f} steps ({interval}) {'later' if mean < 0 else 'sooner'} than"


def _overhead_text(race: RaceAnalysis) -> str:
    watched = [row for row in race.arms if row.arm == HEADLINE and row.case.task in ("pretrain", "noise")]
    if not watched:
        return f"cannot say: {HEADLINE} was run neither on pretrain nor on noise."
    found = [_overhead(row, race.names[row.case], race.budget_percent) for row in watched]
    return " ".join([f"the budget is {race.budget_percent:g} % of the forward tokens.", *found])


def _overhead(row: ArmRow, where: str, budget: float) -> str:
    over = sum(value > budget for _, value in row.overhead_tokens.per_seed)
    kept = f"over it on {over} of {row.n} seeds" if over else f"kept on each of {counted(row.n, 'seed')}"
    text = f"{where}: {percent_text(row.overhead_tokens, row.overhead_tokens_max)}, "
    text += kept if row.overhead_tokens.mean is not None else "cannot say whether it was kept"
    text += f"; {percent_text(row.overhead_s, row.overhead_s_max)} of the seconds"
    if row.case.task == "noise":
        lost = row.difference.low is not None and row.difference.low > 0
        text += f"; it ended {difference_text(row.difference, unit_of('noise'), f'the {BASELINE}')}"
        text += ", which is a loss" if lost else ", no loss to be seen" if row.difference.mean is not None else ""
    return text[0].upper() + text[1:] + "."


def _trust_text(race: RaceAnalysis) -> str:
    counts = {max(len(seeds) for seeds in arms.values()) for arms in race.by_case.values()} or {0}
    text = f"It rests on {listed([str(count) for count in sorted(counts)], ' or ')} seeds a race"
    text += "." if min(counts) >= ENOUGH_SEEDS else f", of {ENOUGH_SEEDS} asked for: small effects can be missed."
    text += f" p-values are one-sided, paired by seed and not corrected for the {race.comparisons} comparisons made: "
    text += "if nothing worked, one in twenty would still be below 0.05."
    text += " Seconds depend on what else the machine did; forward tokens do not."
    # Where there was one rate to try, such as on the noise task, there was no grid to be too narrow.
    edges = [row for row in race.tuning if row.chosen and ("lowest" in row.edge or "highest" in row.edge)]
    named = [f"{row.schedule} of {row.task}, {row.optimizer} ({row.edge})" for row in edges if row.schedule in TUNED]
    if len(edges) > len(named):
        named.append(f"{counted(len(edges) - len(named), 'other arm')}")
    if named:
        text += f" Tuning ended at the edge of its grid for {listed(named)}: a wider grid may favour what was tuned."
    return text
