"""What a run shows, in a few sentences computed from its records; 'cannot say' where an interval includes the null."""

from __future__ import annotations

from collections.abc import Sequence

from leapverify.analysis.over_seeds import summarise
from leapverify.analysis.study.agreement import agreement
from leapverify.analysis.wording import (
    FEWEST_SEEDS,
    SummaryLine,
    Tile,
    counted,
    interval_text,
    pairs_interval,
    range_text,
    verdict,
)
from leapverify.io.records import SeedMeasure
from leapverify.report.kit.run import REGIMES, seeds_text
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.summary_predict import accepted, against_random, best, momentum, skill

FEW_SURVIVE = 0.5
"""Below this share of surviving updates the summary says so."""
AS_MEANT = 0.1
"""How far from 1 the movement along the intended update may be and still be called as meant."""


def findings(analysis: Analysis) -> list[SummaryLine]:
    """The run's answers, most general first."""
    found = [regimes(analysis), *accepted(analysis), *updates(analysis), momentum(analysis), skill(analysis),
             seeds(analysis), representation(analysis), cost(analysis)]  # fmt: skip
    few = len(analysis.run.seeds)
    if few < 5:
        word = seeds_text(few)
        caution = "intervals over so few are wide and rough, and much that is true cannot be said"
        if few == 1:
            caution = "there is no spread and no interval over seeds at all"
        found.append(SummaryLine("How far to trust this", f"It rests on {word}: {caution}."))
    return found


def tiles(analysis: Analysis) -> list[Tile]:
    """The numbers at the head of the page."""
    run = analysis.run
    loss = summarise({seed: rows[-1].val_loss for seed, rows in run.of_seed.items()}, n=len(run.seeds))
    spread = f"± {loss.std:.2g} over {loss.seeds} seeds" if loss.std is not None else "1 seed"
    shown = [Tile("final validation loss", f"{loss.mean:.3f}", f"nats per token, {spread}")]
    shares = _shares(analysis)
    shown.append(Tile("stable checkpoints", f"{shares['stable']:.0f} %", f"of {len(run.checkpoints)} in all seeds"))
    top = best(analysis, "stable") or best(analysis, "transition")
    if top and top.mean is not None:
        random, said = against_random(analysis, top)
        about = f"{top.predictor}, K = {top.horizon}, {top.regime}, n = {top.n}; {random}: {said.split(' (')[0]}"
        shown.append(Tile("best strict acceptance, mean over seeds", f"{100 * top.mean:.0f} %", about))
    found = agreement(run.checkpoints)
    if found.modal is not None:
        chance = f"{found.seeds} seeds"
        if found.modal_chance:
            chance = f"{100 * found.modal_chance[0]:.0f} % with labels shifted in time"
        shown.append(Tile("seeds agree (modal)", f"{100 * found.modal:.0f} %", chance))
    observed = next((row for row in analysis.costs if row.part == "observe" and row.of_training is not None), None)
    if observed and observed.of_training is not None:
        shown.append(Tile("cost of observing", f"{100 * observed.of_training:.2g} %", "of the training time"))
    return shown


def regimes(analysis: Analysis) -> SummaryLine:
    """Shares of the regimes."""
    run, shares = analysis.run, _shares(analysis)
    parts = ", ".join(f"{shares[regime]:.0f} % {regime}" for regime in REGIMES)
    absent = [regime for regime in REGIMES if shares[regime] == 0]
    text = f"Of {len(run.checkpoints)} checkpoints, {parts}; the rest are first checkpoints, which have no label."
    if absent:
        text += f" No seed was ever {' or '.join(absent)}, so nothing can be said of that."
    return SummaryLine("Regimes", text)


def seeds(analysis: Analysis) -> SummaryLine:
    """Regime agreement against its chance level."""
    found = agreement(analysis.run.checkpoints)
    if found.modal is None or found.unanimous is None:
        return SummaryLine("Agreement of seeds", f"Cannot say: {found.reason}.")
    text = f"Seeds carry the most common label {100 * found.modal:.0f} % of the time (modal), all the same at "
    text += f"{100 * found.unanimous:.0f} % of {found.n} checkpoints."
    if found.modal_chance:
        mean, low, high = (100 * value for value in found.modal_chance)
        above = found.seeds >= FEWEST_SEEDS and 100 * found.modal > high
        said = "more than by such chance" if above else "cannot say that this is more than chance"
        text += f" With each seed's labels shifted circularly in time it is {mean:.0f} % (95 % {low:.0f} to {high:.0f} "
        text += f"%): {said}."
    text += " All seeds share one learning-rate schedule, which alone can bring labels together; "
    if analysis.run.cut_points.get("method") == "rate":
        text += "the thresholds of this run (rate) take that out."
    else:
        text += "thresholds=rate takes that out."
    return SummaryLine("Agreement of seeds", text)


def representation(analysis: Analysis) -> SummaryLine:
    """CKA between seeds at the last step against shuffled probes and the untrained models."""
    rows = [
        row for row in analysis.run.measures if row.measure == "cka" and row.value is not None and row.step is not None
    ]
    topic = "Shared representation"
    if not rows:
        return SummaryLine(topic, "Cannot say: fingerprints of different seeds were not compared in this run.")
    last = max(row.step or 0 for row in rows)
    at_end = [row for row in rows if row.step == last]
    values = [row.value for row in at_end if row.value is not None]
    text = f"CKA between seeds at step {last} is {range_text(values)} over {counted(len(values), 'pair')}"
    nulls = [row.null_high for row in at_end if row.null_high is not None]
    fresh = [row.untrained for row in at_end if row.untrained is not None]
    text += f"; shuffled probes reach {max(nulls):.2f}" if nulls else ""
    text += f", untrained models {range_text(fresh)}" if fresh else ""
    if not nulls or not fresh:
        return SummaryLine(topic, text + ". Cannot say what training adds: a baseline is missing.")
    if len({seed for row in at_end for seed in (row.seed_a, row.seed_b)}) < FEWEST_SEEDS:
        return SummaryLine(topic, text + ". Cannot say more from so few pairs.")
    shuffled, untrained = _excess(at_end, "null_high"), _excess(at_end, "untrained")
    if shuffled[0] == untrained[0] == "above":
        said = "above both baselines, so training brings seeds together"
    elif shuffled[0] == "above":
        said = "above shuffled probes, but cannot say that training brings seeds together"
    else:
        said = "cannot say that seeds share more than shuffled probes do"
    return SummaryLine(topic, f"{text}. Over the untrained pair it is {untrained[1]}: {said}.")


def _excess(rows: Sequence[SeedMeasure], baseline: str) -> tuple[str | None, str]:
    """Whether the measure lies above a baseline, by an interval over seeds, and by how much."""
    values = {
        (row.seed_a or 0, row.seed_b or 0): row.value - getattr(row, baseline)
        for row in rows
        if row.value is not None and getattr(row, baseline) is not None
    }
    interval, count = pairs_interval(values)
    mean = sum(values.values()) / len(values)
    if interval is None:
        return None, f"{mean:+.2f} on average (no interval)"
    said = verdict(interval.low, interval.high, count)
    return said, f"{mean:+.2f} on average (95 % over seeds {interval.low:+.2f} to {interval.high:+.2f})"


def cost(analysis: Analysis) -> SummaryLine:
    """What observing and sweeping cost beside training."""
    by_part = {row.part: row for row in analysis.costs}
    observe, sweep = by_part["observe"], by_part["sweep"]
    if observe.of_training is None:
        return SummaryLine("Cost", "Cannot say: no training seconds were recorded.")
    text = f"Observing took {100 * observe.of_training:.2g} % of the training time"
    if sweep.ran and sweep.of_training is not None:
        text += f", the sweep of all predictors {sweep.of_training:.2g} times the training time (the study, not a leap)"
    return SummaryLine("Cost", text + ".")


def updates(analysis: Analysis) -> list[SummaryLine]:
    """What to keep in mind where fewer than half of the intended updates survive being stored; else nothing."""
    settled = (analysis.survivals[regime] for regime in ("stable", "transition") if analysis.survivals)
    found = next((each for each in settled if each.share.mean is not None), None)
    if found is None or found.share.mean is None or found.share.mean >= FEW_SURVIVE:
        return []
    share, along = found.share, found.projection
    text = f"At {found.regime} checkpoints only {100 * found.share.mean:.1f} %"
    text += f"{interval_text(share.low, share.high, '.1f', scale=100.0, unit=' %')} of the weights that the optimizer "
    text += "meant to move changed when they were stored"
    if along.mean is None:
        return [SummaryLine("Updates that survive", f"{text}; cannot say how far they moved: {along.reason}.")]
    moved = f"{along.mean:.2f} of the intended update{interval_text(along.low, along.high, '.2f')}"
    if abs(along.mean - 1) <= AS_MEANT:
        text += f", but those made up for the rest: the weights moved {moved}, as meant in the mean."
    else:
        text += f", and the weights moved {moved}: acceptance that does not degrade with K must be told apart from "
        text += "weights that hardly move."
    return [SummaryLine("Updates that survive", text)]


def _shares(analysis: Analysis) -> dict[str, float]:
    rows = analysis.run.checkpoints
    return {regime: 100 * sum(row.regime == regime for row in rows) / len(rows) for regime in REGIMES}


def texts(found: Sequence[SummaryLine]) -> str:
    """All sentences as one plain text."""
    return "\n".join(f"{finding.topic}. {finding.text}" for finding in found)
