"""What a run shows, in a few sentences computed from its records; 'cannot say' where an interval includes the null."""

from __future__ import annotations

from collections.abc import Sequence

from leapverify.analysis.over_seeds import FEWEST_SEEDS
from leapverify.analysis.study.agreement import agreement
from leapverify.analysis.study.pairs import pairs_interval
from leapverify.analysis.vocabulary import REGIMES
from leapverify.analysis.wording import counted, interval_text, range_text, verdict
from leapverify.io.records import SeedMeasure
from leapverify.report.kit.section import Headline, SummaryLine
from leapverify.report.kit.words import words
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.summary_predict import accepted, against_random, best, momentum, skill

FEW_SURVIVE = 0.5
"""Below this share of surviving updates the summary says so."""
AS_MEANT = 0.1
"""How far from 1 the movement along the intended update may be and still be called as meant."""
ENOUGH_SEEDS = 5
"""Below so many the summary warns of them."""


def findings(analysis: Analysis) -> list[SummaryLine]:
    """The run's answers, most general first."""
    found = [regimes(analysis), *accepted(analysis), *updates(analysis), momentum(analysis), skill(analysis),
             seeds(analysis), representation(analysis), cost(analysis)]  # fmt: skip
    count = len(analysis.run.seeds)
    if count < ENOUGH_SEEDS:
        found.append(words("study").line("said-trust", "one" if count == 1 else "few", seeds=counted(count, "seed")))
    return found


def tiles(analysis: Analysis) -> list[Headline]:
    """The numbers at the head of the page."""
    run, loss = analysis.run, analysis.run.final_loss
    spread = f"± {loss.std:.2g} over {loss.seeds} seeds" if loss.std is not None else "1 seed"
    stable = f"{_shares(analysis)['stable']:.0f} %"
    shown = [
        Headline("final validation loss", f"{loss.mean:.3f}", f"nats per token, {spread}"),
        Headline("stable checkpoints", stable, f"of {len(run.checkpoints)} in all seeds"),
    ]
    top = best(analysis, "stable") or best(analysis, "transition")
    if top and top.mean is not None:
        random, said = against_random(analysis, top)
        about = f"{top.predictor}, K = {top.horizon}, {top.regime}, n = {top.n}; {random}: {said.split(' (')[0]}"
        shown.append(Headline("best strict acceptance, mean over seeds", f"{100 * top.mean:.0f} %", about))
    found = agreement(run.checkpoints)
    if found.modal is not None:
        chance = f"{found.seeds} seeds"
        if found.modal_chance:
            chance = f"{100 * found.modal_chance[0]:.0f} % with labels shifted in time"
        shown.append(Headline("seeds agree (modal)", f"{100 * found.modal:.0f} %", chance))
    observed = next((row.of_training for row in analysis.costs if row.part == "observe"), None)
    if observed is not None:
        shown.append(Headline("cost of observing", f"{100 * observed:.2g} %", "of the training time"))
    return shown


def regimes(analysis: Analysis) -> SummaryLine:
    """Shares of the regimes."""
    shares = _shares(analysis)
    absent = " or ".join(regime for regime in REGIMES if shares[regime] == 0)
    said = ", ".join(f"{shares[regime]:.0f} % {regime}" for regime in REGIMES)
    n = len(analysis.run.checkpoints)
    return words("study").line("said-regimes", "shares", absent and "absent", n=n, shares=said, absent=absent)


def seeds(analysis: Analysis) -> SummaryLine:
    """Regime agreement against its chance level."""
    found = agreement(analysis.run.checkpoints)
    if found.modal is None or found.unanimous is None:
        return words("study").line("said-seeds", "nothing", reason=found.reason)
    mean, low, high = (100 * value for value in found.modal_chance or (0.0, 0.0, 0.0))
    above = found.seeds >= FEWEST_SEEDS and 100 * found.modal > high
    return words("study").line(
        "said-seeds",
        "agree",
        bool(found.modal_chance) and "chance",
        "schedule",
        "by_rate" if analysis.run.cut_points.get("method") == "rate" else "not_by_rate",
        **{"modal": 100 * found.modal, "unanimous": 100 * found.unanimous, "n": found.n},
        **{"mean": mean, "low": low, "high": high},
        said="more than by such chance" if above else "cannot say that this is more than chance",
    )


def representation(analysis: Analysis) -> SummaryLine:
    """CKA between seeds at the last step against shuffled probes and the untrained models."""
    rows = [row for row in analysis.run.measures if row.measure == "cka" and row.value is not None]
    measured = [row for row in rows if row.step is not None]
    if not measured:
        return words("study").line("said-representation", "nothing")
    last = max(row.step or 0 for row in measured)
    rows = [row for row in measured if row.step == last]
    values = [row.value for row in rows if row.value is not None]
    nulls = [row.null_high for row in rows if row.null_high is not None]
    fresh = [row.untrained for row in rows if row.untrained is not None]
    excess, said, end = "", "none", "against"
    if not nulls or not fresh:
        end = "no_baseline"
    elif len({seed for row in rows for seed in (row.seed_a, row.seed_b)}) < FEWEST_SEEDS:
        end = "few"
    else:
        (shuffled, _), (untrained, excess) = _excess(rows, "null_high"), _excess(rows, "untrained")
        if shuffled == "above":
            said = "both" if untrained == "above" else "one"
    return words("study").line(
        "said-representation",
        "cka",
        bool(nulls) and "shuffled",
        bool(fresh) and "untrained",
        end,
        **{"step": last, "values": range_text(values), "pairs": counted(len(values), "pair")},
        **{"null": max(nulls, default=0.0), "fresh": range_text(fresh) if fresh else "", "excess": excess},
        said=words("study").say("said-representation", said),
    )


def _excess(rows: Sequence[SeedMeasure], baseline: str) -> tuple[str | None, str]:
    """Whether the measure lies above a baseline, by an interval over seeds, and by how much."""
    values = {
        (row.seed_a or 0, row.seed_b or 0): row.value - getattr(row, baseline)
        for row in rows
        if row.value is not None and getattr(row, baseline) is not None
    }
    interval, count = pairs_interval(values)
    mean = f"{sum(values.values()) / len(values):+.2f} on average"
    if interval is None:
        return None, f"{mean} (no interval)"
    ends = f"{mean} (95 % over seeds {interval.low:+.2f} to {interval.high:+.2f})"
    return verdict(interval.low, interval.high, count), ends


def cost(analysis: Analysis) -> SummaryLine:
    """What observing and sweeping cost beside training."""
    by_part = {row.part: row for row in analysis.costs}
    observe, sweep = by_part["observe"].of_training, by_part["sweep"]
    if observe is None:
        return words("study").line("said-cost", "nothing")
    parts = ("observing", sweep.ran and "sweep", "end")
    return words("study").line("said-cost", *parts, observe=100 * observe, sweep=sweep.of_training)


def updates(analysis: Analysis) -> list[SummaryLine]:
    """What to keep in mind where fewer than half of the intended updates survive being stored; else nothing."""
    settled = (analysis.survivals[regime] for regime in ("stable", "transition") if analysis.survivals)
    found = next((each for each in settled if each.share.mean is not None), None)
    if found is None or found.share.mean is None or found.share.mean >= FEW_SURVIVE:
        return []
    share, along = found.share, found.projection
    interval = interval_text(share.low, share.high, ".1f", scale=100.0, unit=" %")
    given = {"regime": found.regime, "share": 100 * found.share.mean, "interval": interval}
    if along.mean is None:
        return [words("study").line("said-updates", "share", "unknown", **given, reason=along.reason)]
    along_interval = interval_text(along.low, along.high, ".2f")
    moved = words("study").say("said-updates", "moved", along=along.mean, along_interval=along_interval)
    end = "as_meant" if abs(along.mean - 1) <= AS_MEANT else "hardly"
    return [words("study").line("said-updates", "share", end, **given, moved=moved)]


def _shares(analysis: Analysis) -> dict[str, float]:
    rows = analysis.run.checkpoints
    return {regime: 100 * sum(row.regime == regime for row in rows) / len(rows) for regime in REGIMES}


def texts(found: Sequence[SummaryLine]) -> str:
    """All sentences as one plain text."""
    return "\n".join(f"{finding.topic}. {finding.text}" for finding in found)
