"""What a run shows, in a few sentences computed from its records; 'cannot say' where an interval includes the null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leapverify.analysis.acceptance import Average, Rate
from leapverify.analysis.agreement import agreement
from leapverify.analysis.over_seeds import summarise
from leapverify.analysis.skill import Skill
from leapverify.report.analysis import Analysis
from leapverify.report.run import REGIMES, seeds_text

CONTROLS = ("hold", "random")
FEWEST_SEEDS = 3
"""With fewer, a bootstrap over seeds has hardly anything to draw from, and no claim is made from it."""


@dataclass(frozen=True)
class Finding:
    """One sentence or two on one question."""

    topic: str
    text: str


@dataclass(frozen=True)
class Tile:
    """One number worth a glance."""

    label: str
    value: str
    about: str


def findings(analysis: Analysis) -> list[Finding]:
    """The run's answers, most general first."""
    found = [regimes(analysis), accepted(analysis), momentum(analysis), skill(analysis), seeds(analysis),
             representation(analysis), cost(analysis)]  # fmt: skip
    few = len(analysis.run.seeds)
    if few < 5:
        word = seeds_text(few)
        caution = (
            "there is no spread and no interval over seeds at all" if few == 1 else "intervals over so few are rough"
        )
        found.append(Finding("How far to trust this", f"It rests on {word}: {caution}."))
    return found


def tiles(analysis: Analysis) -> list[Tile]:
    """The numbers at the head of the page."""
    run = analysis.run
    loss = summarise({seed: rows[-1].val_loss for seed, rows in run.of_seed.items()}, n=len(run.seeds))
    spread = f"± {loss.std:.2g} over {loss.seeds} seeds" if loss.std is not None else "1 seed"
    shown = [Tile("final validation loss", f"{loss.mean:.3f}", f"nats per token, {spread}")]
    shares = _shares(analysis)
    shown.append(Tile("stable checkpoints", f"{shares['stable']:.0f} %", f"of {len(run.checkpoints)} in all seeds"))
    best = _best(analysis, "stable") or _best(analysis, "transition")
    if best and best.mean is not None:
        shown.append(
            Tile(
                "best strict acceptance",
                f"{100 * best.mean:.0f} %",
                f"{best.predictor}, K = {best.horizon}, n = {best.n}",
            )
        )
    found = agreement(run.checkpoints)
    if found.modal is not None:
        chance = f"{100 * found.modal_chance[0]:.0f} % by chance" if found.modal_chance else f"{found.seeds} seeds"
        shown.append(Tile("seeds agree (modal)", f"{100 * found.modal:.0f} %", chance))
    observed = next((row for row in analysis.costs if row.part == "observe" and row.of_training is not None), None)
    if observed and observed.of_training is not None:
        shown.append(Tile("cost of observing", f"{100 * observed.of_training:.2g} %", "of the training time"))
    return shown


def regimes(analysis: Analysis) -> Finding:
    """Shares of the regimes."""
    run, shares = analysis.run, _shares(analysis)
    parts = ", ".join(f"{shares[regime]:.0f} % {regime}" for regime in REGIMES)
    absent = [regime for regime in REGIMES if shares[regime] == 0]
    text = f"Of {len(run.checkpoints)} checkpoints, {parts}; the rest are first checkpoints, which have no label."
    if absent:
        text += f" No seed was ever {' or '.join(absent)}, so nothing can be said of that."
    return Finding("Regimes", text)


def accepted(analysis: Analysis) -> Finding:
    """What was accepted, from where, and what it won."""
    if not analysis.run.predictions:
        return Finding("Acceptance", "No predictions were made, so none can be judged.")
    sentences = [_accepted_in(analysis, regime) for regime in ("stable", "transition")]
    sentences.append("The highest of many cells is flattered by the choice; the tables give them all.")
    return Finding("Acceptance", " ".join(sentences))


def _accepted_in(analysis: Analysis, regime: str) -> str:
    best = _best(analysis, regime)
    if best is None or best.mean is None:
        occurs = any(row.regime == regime for row in analysis.run.checkpoints)
        why = "no prediction there was judged" if occurs else f"no seed was ever {regime}"
        return f"In the {regime} regime nothing can be said: {why}."
    interval = _interval(best.low, best.high, 100, ".0f", " %")
    text = (
        f"In the {regime} regime the highest strict acceptance is {100 * best.mean:.0f} %{interval}: {best.predictor} "
    )
    text += f"at K = {best.horizon}, {best.accepted} of {best.n} predictions in {seeds_text(best.seeds)}"
    text += f"{_per_gain(analysis, best)}."
    others = []
    for where in ("transition", "chaotic"):
        rate = analysis.rates["strict"].get((where, best.predictor, best.horizon))
        if where != regime and regime == "stable" and rate is not None and rate.mean is not None:
            spread = _interval(rate.low, rate.high, 100, ".0f", " %")
            others.append(f"{100 * rate.mean:.0f} %{spread} of {rate.n} in {where}")
    return text + (f" The same is accepted in {' and '.join(others)}." if others else "")


def momentum(analysis: Analysis) -> Finding:
    """The printed momentum rule against the Adam recurrences."""
    run = analysis.run
    names = [name for name in ("momentum", "adam-constant", "adam") if name in run.predictors]
    if not names:
        return Finding("Momentum", "Neither momentum nor adam was among the predictors.")
    horizons = sorted({run.horizons[0], run.horizons[-1]})
    ends = {name: [analysis.loss_ratios[name, horizon] for horizon in horizons] for name in names}
    parts = []
    for name, rows in ends.items():
        shown = [f"{_ratio(row)} at K = {row.horizon} (n = {row.n})" for row in rows if row.mean is not None]
        lost = sum(row.nonfinite for row in rows)
        parts.append(f"{name} {' and '.join(shown) or 'nothing finite'}" + (f", {lost} not finite" if lost else ""))
    text = "Predicted over present loss: " + "; ".join(parts) + "."
    unclear = [row for row in ends.get("adam", ()) if _holds(row, 1.0)]
    if unclear:
        where = " and ".join(f"K = {row.horizon}" for row in unclear)
        text += f" At {where} cannot say that adam changes the loss."
    return Finding("Momentum against Adam", text)


def skill(analysis: Analysis) -> Finding:
    """Whether any signal ranks checkpoints better than a coin, and better than the clock."""
    rows = [s for s in analysis.skills["strict"] if s.predictor not in CONTROLS and s.auc is not None]
    if not rows:
        why = "no predictor was both accepted and rejected, so there is nothing to rank"
        return Finding("Recognizers", f"Cannot say: {why}.")
    if len(analysis.run.seeds) < FEWEST_SEEDS:
        return Finding("Recognizers", f"Cannot say: an interval over seeds needs {FEWEST_SEEDS} seeds at least.")
    sentences = []
    for signal, label in (("similarity", "Similarity"), ("straightness", "straightness"), ("step", "the clock alone")):
        own = [row for row in rows if row.signal == signal]
        above, below = sum(map(_above, own)), sum(map(_below, own))
        sentences.append(f"{label} ranks better than chance in {above} of {len(own)} cells and worse in {below}")
    text = "; ".join(sentences) + " (predictor × K, strict, 95 % interval clear of 0.5; cells share checkpoints). "
    own = [row for row in rows if row.signal == "similarity"]
    clock = {(row.predictor, row.horizon): row.auc or 0.0 for row in rows if row.signal == "step"}
    better = sum((row.auc or 0.0) > clock.get((row.predictor, row.horizon), 0.0) for row in own)
    text += f"The similarity beats the clock in {better} of {len(own)} cells: {_verdict(own)}."
    return Finding("Recognizers", text)


def _verdict(rows: Sequence[Skill]) -> str:
    above, below = sum(map(_above, rows)), sum(map(_below, rows))
    if max(above, below) <= 0.1 * len(rows):
        return "cannot say that it recognises anything"
    if below > above:
        return "it points the wrong way more often than the right one"
    return "it recognises something" if above > 2 * below else "right and wrong about as often, so no recognizer"


def seeds(analysis: Analysis) -> Finding:
    """Regime agreement against its chance level."""
    found = agreement(analysis.run.checkpoints)
    if found.modal is None or found.unanimous is None:
        return Finding("Agreement of seeds", f"Cannot say: {found.reason}.")
    text = f"Seeds carry the most common label {100 * found.modal:.0f} % of the time (modal), all the same at "
    text += f"{100 * found.unanimous:.0f} % of {found.n} checkpoints."
    if found.modal_chance:
        mean, low, high = (100 * value for value in found.modal_chance)
        verdict = "more than chance" if 100 * found.modal > high else "cannot say that this is more than chance"
        text += f" With labels shuffled in time, it is {mean:.0f} % (95 % {low:.0f} to {high:.0f} %): {verdict}."
    return Finding("Agreement of seeds", text)


def representation(analysis: Analysis) -> Finding:
    """CKA between seeds at the last step against shuffled probes and the untrained models."""
    rows = [
        row for row in analysis.run.measures if row.measure == "cka" and row.value is not None and row.step is not None
    ]
    topic = "Shared representation"
    if not rows:
        return Finding(topic, "Cannot say: fingerprints of different seeds were not compared in this run.")
    last = max(row.step or 0 for row in rows)
    at_end = [row for row in rows if row.step == last]
    values = [row.value for row in at_end if row.value is not None]
    text = f"CKA between seeds at step {last} is {_range(values)} over {len(values)} pair" + (
        "" if len(values) == 1 else "s"
    )
    nulls = [row.null_high for row in at_end if row.null_high is not None]
    fresh = [row.untrained for row in at_end if row.untrained is not None]
    text += f"; shuffled probes reach {max(nulls):.2f}" if nulls else ""
    text += f", untrained models {_range(fresh)}" if fresh else ""
    if not nulls or not fresh:
        return Finding(topic, text + ". Cannot say what training adds: a baseline is missing.")
    if len(values) < FEWEST_SEEDS:
        return Finding(topic, text + ". Cannot say more from so few pairs.")
    if min(values) > max(*nulls, *fresh):
        return Finding(topic, text + ". Every pair is above both: training brings seeds together.")
    return Finding(topic, text + ". The ranges overlap: cannot say that training brings seeds together.")


def cost(analysis: Analysis) -> Finding:
    """What observing and sweeping cost beside training."""
    by_part = {row.part: row for row in analysis.costs}
    observe, sweep = by_part["observe"], by_part["sweep"]
    if observe.of_training is None:
        return Finding("Cost", "Cannot say: no training seconds were recorded.")
    text = f"Observing took {100 * observe.of_training:.2g} % of the training time"
    if sweep.ran and sweep.of_training is not None:
        text += f", the sweep of all predictors {sweep.of_training:.2g} times the training time (the study, not a leap)"
    return Finding("Cost", text + ".")


def _shares(analysis: Analysis) -> dict[str, float]:
    rows = analysis.run.checkpoints
    return {regime: 100 * sum(row.regime == regime for row in rows) / len(rows) for regime in REGIMES}


def _best(analysis: Analysis, regime: str) -> Rate | None:
    rates = [r for (where, _, _), r in analysis.rates["strict"].items() if where == regime and r.mean is not None]
    candidates = [rate for rate in rates if rate.predictor not in CONTROLS]
    return max(candidates, key=lambda rate: (rate.mean or 0.0, rate.n), default=None)


def _per_gain(analysis: Analysis, rate: Rate) -> str:
    gain = analysis.gain_fractions.get((rate.regime, rate.predictor, rate.horizon))
    if gain is None or gain.mean is None:
        return ""
    if _holds(gain, 0.0):
        return f"; its median gain fraction is {gain.mean:.2f}, cannot say that it differs from 0"
    return f"; its median gain fraction is {gain.mean:.2f} ({gain.low:.2f} to {gain.high:.2f})"


def _interval(low: float | None, high: float | None, scale: float, form: str, unit: str) -> str:
    if low is None or high is None:
        return " (one seed, no interval)"
    if low == high:
        return " (the same in every seed)"
    return f" (95 % {low * scale:{form}} to {high * scale:{form}}{unit})"


def _holds(found: Average, null: float) -> bool:
    """Whether the interval includes the null, or is none to speak of."""
    if found.seeds < FEWEST_SEEDS or found.low is None or found.high is None:
        return True
    return found.low <= null <= found.high


def _above(row: Skill) -> bool:
    return row.low is not None and row.low > 0.5


def _below(row: Skill) -> bool:
    return row.high is not None and row.high < 0.5


def _ratio(row: Average) -> str:
    mean = row.mean or 0.0
    if mean >= 10:
        return f"{mean:,.0f}×"
    return f"{mean:.4f}×" + ("" if row.low is None or row.high is None else f" ({row.low:.4f} to {row.high:.4f})")


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def texts(found: Sequence[Finding]) -> str:
    """All sentences as one plain text."""
    return "\n".join(f"{finding.topic}. {finding.text}" for finding in found)
