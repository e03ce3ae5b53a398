"""What a run shows of its predictions: acceptance beside the controls, momentum, and the recognizers' skill."""

from __future__ import annotations

from collections.abc import Sequence

from leapverify.analysis.study.acceptance import Rate
from leapverify.analysis.study.skill import Skill
from leapverify.analysis.wording import (
    FEWEST_SEEDS,
    FEWEST_VALUES,
    SummaryLine,
    beyond,
    counted,
    interval_text,
    listed,
    verdict,
)
from leapverify.report.kit.run import seeds_text
from leapverify.report.study.analysis import Analysis

CONTROLS = ("hold", "random")
SIGNALS = {"similarity": "the similarity", "straightness": "the straightness"}


def accepted(analysis: Analysis) -> list[SummaryLine]:
    """What was accepted, from where, beside a random step, and what it won."""
    if not analysis.run.predictions:
        return [SummaryLine("Acceptance", "No predictions were made, so none can be judged.")]
    return [
        SummaryLine("Accepted when stable", _accepted_in(analysis, "stable")),
        SummaryLine("Accepted in transition", _accepted_in(analysis, "transition")),
        SummaryLine(
            "Controls of acceptance",
            "For strict and paired it is random, a step of linear's length in a random direction; hold can pass "
            "neither. For adaptive and proximity it is hold. The sigma of adaptive contains the loss's own trend, so "
            "hold and random pass it nearly always. The highest of many cells is flattered by the choice; the tables "
            "give them all.",
        ),
    ]


def best(analysis: Analysis, regime: str) -> Rate | None:
    """The cell with the highest strict acceptance in a regime, controls left out."""
    rates = [r for (where, _, _), r in analysis.rates["strict"].items() if where == regime and r.mean is not None]
    candidates = [rate for rate in rates if rate.predictor not in CONTROLS]
    return max(candidates, key=lambda rate: (rate.mean or 0.0, rate.n), default=None)


def against_random(analysis: Analysis, rate: Rate) -> tuple[str, str]:
    """The rate of a random step in the same cell, and the verdict on the difference."""
    control = analysis.rates[rate.criterion].get((rate.regime, "random", rate.horizon))
    if control is None or control.mean is None:
        return "no random step was tried", "cannot say that it beats a random step"
    found, says = beyond(rate, control)
    words = {"above": "it beats a random step", "below": "it does worse than a random step"}
    said = words.get(says or "", "cannot say that it beats a random step")
    if says:
        said += f" (by {100 * (found.mean or 0.0):.0f} points, paired by seed"
        wide = found.low is not None and found.high is not None and found.low < found.high
        said += f", 95 % {100 * (found.low or 0):.0f} to {100 * (found.high or 0):.0f})" if wide else ")"
    return f"a random step {100 * control.mean:.0f} %", said


def _accepted_in(analysis: Analysis, regime: str) -> str:
    top = best(analysis, regime)
    if top is None or top.mean is None:
        occurs = any(row.regime == regime for row in analysis.run.checkpoints)
        why = "no prediction there was judged" if occurs else f"no seed was ever {regime}"
        return f"In the {regime} regime nothing can be said: {why}."
    random, said = against_random(analysis, top)
    text = f"In the {regime} regime the highest strict acceptance is that of {top.predictor} at K = {top.horizon}: "
    text += f"mean over seeds {_rate(top)}, pooled {top.accepted} of {top.n} predictions in {seeds_text(top.seeds)}; "
    text += f"{random} in the same cell: {said}. {_per_gain(analysis, top)}"
    for where in ("transition", "chaotic") if regime == "stable" else ():
        rate = analysis.rates["strict"].get((where, top.predictor, top.horizon))
        if rate is not None and rate.mean is not None:
            random, said = against_random(analysis, rate)
            text += f" The same in {where}: {_rate(rate)}, pooled {rate.accepted} of {rate.n}; {random}: {said}."
    return text


def _rate(rate: Rate) -> str:
    return f"{100 * (rate.mean or 0.0):.0f} %{interval_text(rate.low, rate.high, '.0f', scale=100.0, unit=' %')}"


def _per_gain(analysis: Analysis, rate: Rate) -> str:
    key = (rate.regime, rate.predictor, rate.horizon)
    gain = analysis.gain_fractions.get(key)
    if gain is None or gain.mean is None:
        return "No gain fraction exists there."
    fewest = analysis.fewest_gains.get(key, 0)
    count = f"from n = {gain.n}, {gain.missing} left out because the run itself did not improve or had ended"
    text = f"Its median gain fraction is {gain.mean:.2f}{interval_text(gain.low, gain.high, '.2f')}, {count}"
    if fewest < FEWEST_VALUES:
        return f"{text}; cannot say, a seed has only {counted(fewest, 'value')}."
    says = verdict(gain.low, gain.high, gain.seeds)
    return f"{text}: {says} 0." if says else f"{text}: cannot say that it differs from 0."


def momentum(analysis: Analysis) -> SummaryLine:
    """The printed momentum rule against the Adam recurrences."""
    run = analysis.run
    names = [name for name in ("momentum", "adam-constant", "adam") if name in run.predictors]
    if not names:
        return SummaryLine("Momentum", "Neither momentum nor adam was among the predictors.")
    horizons = sorted({run.horizons[0], run.horizons[-1]})
    ends = {name: [analysis.loss_ratios[name, horizon] for horizon in horizons] for name in names}
    parts = []
    for name, rows in ends.items():
        shown = [
            f"{_times(row.mean)}{_times_interval(row.mean, row.low, row.high)} at K = {row.horizon} (n = {row.n})"
            for row in rows
            if row.mean is not None
        ]
        lost = sum(row.nonfinite for row in rows)
        parts.append(f"{name} {' and '.join(shown) or 'nothing finite'}" + (f", {lost} not finite" if lost else ""))
    text = "Predicted over present loss: " + "; ".join(parts) + "."
    unclear = [row for row in ends.get("adam", ()) if verdict(row.low, row.high, row.seeds, 1.0) is None]
    if unclear:
        where = " and ".join(f"K = {row.horizon}" for row in unclear)
        text += f" At {where} cannot say that adam changes the loss."
    return SummaryLine("Momentum against Adam", text)


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}×" if value >= 10 else f"{value:.4f}×"


def _times_interval(mean: float | None, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return " (one seed, no interval)"
    form = ",.0f" if (mean or 0.0) >= 10 else ".4f"
    return interval_text(low, high, form)


def skill(analysis: Analysis) -> SummaryLine:
    """Whether any signal ranks checkpoints better than a coin, and better than the clock."""
    rows = [s for s in analysis.skills["strict"] if s.predictor not in CONTROLS and s.auc is not None]
    if not rows:
        why = "no predictor was both accepted and rejected, so there is nothing to rank"
        return SummaryLine("Recognizers", f"Cannot say: {why}.")
    if len(analysis.run.seeds) < FEWEST_SEEDS:
        return SummaryLine("Recognizers", f"Cannot say: an interval over seeds needs {FEWEST_SEEDS} seeds at least.")
    own = {signal: [row for row in rows if row.signal == signal] for signal in (*SIGNALS, "step")}
    against = [_against_coin(own[signal], label) for signal, label in {**SIGNALS, "step": "the clock alone"}.items()]
    text = "; ".join(against)
    text = text[0].upper() + text[1:] + " (predictor × K, strict; better: 95 % interval clear of 0.5). "
    text += f"{_direction(own['step'])} So a signal must beat the clock in its better direction, on the same "
    text += f"checkpoints: {'; '.join(_against_clock(own[signal], label) for signal, label in SIGNALS.items())}. "
    text += "Cells are near-copies of each other (the same checkpoints; adam's K = 50, 75 and 100 hardly differ), and "
    text += "about one cell in forty comes out clear on either side by luck."
    return SummaryLine("Recognizers", text)


def _against_coin(rows: Sequence[Skill], label: str) -> str:
    judged = [row for row in rows if row.low is not None]
    if not judged:
        return f"{label} has no cell with an interval"
    says = [verdict(row.low, row.high, row.seeds, 0.5) for row in judged]
    better, worse = says.count("above"), says.count("below")
    return f"{label} ranks better than a coin in {better} of {len(judged)} cells with an interval and worse in {worse}"


def _direction(clock: Sequence[Skill]) -> str:
    areas = [row.auc for row in clock if row.auc is not None]
    earlier = sum(area < 0.5 for area in areas)
    if not areas:
        return "The clock itself could not be ranked."
    if 2 * earlier > len(areas):
        return f"Earlier checkpoints succeed more often in {earlier} of {len(areas)} cells."
    return f"Later checkpoints succeed at least as often in {len(areas) - earlier} of {len(areas)} cells."


def _against_clock(rows: Sequence[Skill], label: str) -> str:
    judged = [row for row in rows if row.beyond_low is not None]
    if not judged:
        return f"cannot say that {label} does, no cell has an interval"
    clear = [row for row in judged if verdict(row.beyond_low, row.beyond_high, row.seeds) == "above"]
    worse = [row for row in judged if verdict(row.beyond_low, row.beyond_high, row.seeds) == "below"]
    names, of = list(dict.fromkeys(row.predictor for row in clear)), {row.predictor for row in judged}
    back = f"and falls behind it in {len(worse)}"
    if not clear:
        return f"cannot say that {label} does in any of {len(judged)} cells, {back}"
    said = f"{label} does in {len(clear)} of {len(judged)} cells, of {len(names)} of {len(of)} predictors"
    return f"{said} ({listed(names)}), {back}"
