"""What a run shows of its predictions: acceptance beside the controls, momentum, and the recognizers' skill."""

from __future__ import annotations

from collections.abc import Sequence

from leapverify.analysis.over_seeds import FEWEST_SEEDS
from leapverify.analysis.study.acceptance import CellAverage, Rate, rate_difference
from leapverify.analysis.study.skill import CLOCK, Skill
from leapverify.analysis.vocabulary import CONTROLS
from leapverify.analysis.wording import FEWEST_VALUES, counted, interval_text, listed, verdict
from leapverify.report.kit.section import SummaryLine
from leapverify.report.kit.words import words
from leapverify.report.study.analysis import Analysis

SIGNALS = {"similarity": "the similarity", "straightness": "the straightness"}
"""The recognizers that are spoken of."""


def accepted(analysis: Analysis) -> list[SummaryLine]:
    """What was accepted, from where, beside a random step, and what it won."""
    if not analysis.run.predictions:
        return [SummaryLine("Acceptance", words("study").say("said-accepted", "none"))]
    return [
        _accepted_in(analysis, "stable", "when stable"),
        _accepted_in(analysis, "transition", "in transition"),
        words("study").line("said-controls", "text"),
    ]


def best(analysis: Analysis, regime: str) -> Rate | None:
    """The cell with the highest strict acceptance in a regime, controls left out."""
    rates = [rate for cell, rate in analysis.rates["strict"].items() if cell.regime == regime and rate.mean is not None]
    candidates = [rate for rate in rates if rate.predictor not in CONTROLS]
    return max(candidates, key=lambda rate: (rate.mean or 0.0, rate.n), default=None)


def against_random(analysis: Analysis, rate: Rate) -> tuple[str, str]:
    """The rate of a random step in the same cell, and the verdict on the difference."""
    unclear = "cannot say that it beats a random step"
    control = analysis.rates[rate.criterion].get(rate.cell._replace(predictor="random"))
    if control is None or control.mean is None:
        return "no random step was tried", unclear
    found, says = rate_difference(rate, control)
    said = {"above": "it beats a random step", "below": "it does worse than a random step"}.get(says or "", unclear)
    if says:
        said += f" (by {100 * (found.mean or 0.0):.0f} points, paired by seed"
        wide = found.low is not None and found.high is not None and found.low < found.high
        said += f", 95 % {100 * (found.low or 0):.0f} to {100 * (found.high or 0):.0f})" if wide else ")"
    return f"a random step {100 * control.mean:.0f} %", said


def _accepted_in(analysis: Analysis, regime: str, where: str) -> SummaryLine:
    top, say = best(analysis, regime), words("study").say
    if top is None or top.mean is None:
        occurs = any(row.regime == regime for row in analysis.run.checkpoints)
        why = "no prediction there was judged" if occurs else f"no seed was ever {regime}"
        return words("study").line("said-accepted", "nothing", where=where, regime=regime, why=why)
    random, said = against_random(analysis, top)
    line = words("study").line(
        "said-accepted",
        "best",
        **{"where": where, "regime": regime, "predictor": top.predictor, "horizon": top.horizon, "rate": _rate(top)},
        **{"accepted": top.accepted, "n": top.n, "seeds": counted(top.seeds, "seed"), "random": random, "said": said},
        gain=_per_gain(analysis, top),
    )
    text = line.text
    for other in ("transition", "chaotic") if regime == "stable" else ():
        rate = analysis.rates["strict"].get(top.cell._replace(regime=other))
        if rate is not None and rate.mean is not None:
            random, said = against_random(analysis, rate)
            text += say("said-accepted", "elsewhere", where=other, rate=_rate(rate), accepted=rate.accepted, n=rate.n,
                        random=random, said=said)  # fmt: skip
    return SummaryLine(line.topic, text)


def _rate(rate: Rate) -> str:
    return f"{100 * (rate.mean or 0.0):.0f} %{interval_text(rate.low, rate.high, '.0f', scale=100.0, unit=' %')}"


def _per_gain(analysis: Analysis, rate: Rate) -> str:
    say, gain = words("study").say, analysis.gain_fractions.get(rate.cell)
    if gain is None or gain.mean is None:
        return say("said-accepted", "no_gain")
    fewest, interval = analysis.fewest_gains.get(rate.cell, 0), interval_text(gain.low, gain.high, ".2f")
    text = say("said-accepted", "gain", gain=gain.mean, interval=interval, n=gain.n, missing=gain.missing)
    if fewest < FEWEST_VALUES:
        return text + say("said-accepted", "few", fewest=counted(fewest, "value"))
    says = verdict(gain.low, gain.high, gain.seeds)
    return text + say("said-accepted", "clear" if says else "unclear", says=says)


def momentum(analysis: Analysis) -> SummaryLine:
    """The printed momentum rule against the Adam recurrences."""
    run = analysis.run
    names = [name for name in ("momentum", "adam-constant", "adam") if name in run.predictors]
    if not names:
        return SummaryLine("Momentum", "Neither momentum nor adam was among the predictors.")
    horizons = sorted({run.horizons[0], run.horizons[-1]})
    ends = {name: [analysis.loss_ratios[name, horizon] for horizon in horizons] for name in names}
    ratios = []
    for name, rows in ends.items():
        shown = " and ".join(_times(row) for row in rows if row.mean is not None)
        lost = sum(row.nonfinite for row in rows)
        ratios.append(f"{name} {shown or 'nothing finite'}" + (f", {lost} not finite" if lost else ""))
    unclear = [row for row in ends.get("adam", ()) if verdict(row.low, row.high, row.seeds, 1.0) is None]
    where = " and ".join(f"K = {row.horizon}" for row in unclear)
    return words("study").line("said-momentum", "ratios", where and "unclear", ratios="; ".join(ratios), where=where)


def _times(row: CellAverage) -> str:
    """'1.0021× (95 % 0.9990 to 1.0052) at K = 5 (n = 40)'."""
    mean = row.mean or 0.0
    form = ",.0f" if mean >= 10 else ".4f"
    return f"{mean:{form}}×{interval_text(row.low, row.high, form)} at K = {row.horizon} (n = {row.n})"


def skill(analysis: Analysis) -> SummaryLine:
    """Whether any signal ranks checkpoints better than a coin, and better than the clock."""
    rows = [s for s in analysis.skills["strict"] if s.predictor not in CONTROLS and s.auc is not None]
    if not rows:
        return words("study").line("said-skill", "nothing")
    if len(analysis.run.seeds) < FEWEST_SEEDS:
        return words("study").line("said-skill", "few", fewest=FEWEST_SEEDS)
    own = {signal: [row for row in rows if row.signal == signal] for signal in (*SIGNALS, CLOCK)}
    coin = "; ".join(
        _against_coin(own[signal], label) for signal, label in {**SIGNALS, CLOCK: "the clock alone"}.items()
    )
    clock = "; ".join(_against_clock(own[signal], label) for signal, label in SIGNALS.items())
    direction = _direction(own[CLOCK])
    return words("study").line("said-skill", "text", coin=coin[0].upper() + coin[1:], direction=direction, clock=clock)


def _against_coin(rows: Sequence[Skill], label: str) -> str:
    says = [verdict(row.low, row.high, row.seeds, 0.5) for row in rows if row.low is not None]
    counts = {"judged": len(says), "better": says.count("above"), "worse": says.count("below")}
    return words("study").say("said-skill", "coin" if says else "no_coin", label=label, **counts)


def _direction(clock: Sequence[Skill]) -> str:
    areas = [row.auc for row in clock if row.auc is not None]
    earlier = sum(area < 0.5 for area in areas)
    part = "unranked" if not areas else "earlier" if 2 * earlier > len(areas) else "later"
    return words("study").say("said-skill", part, earlier=earlier, later=len(areas) - earlier, cells=len(areas))


def _against_clock(rows: Sequence[Skill], label: str) -> str:
    judged = [row for row in rows if row.beyond_low is not None]
    says = [verdict(row.beyond_low, row.beyond_high, row.seeds) for row in judged]
    clear = [row.predictor for row, said in zip(judged, says, strict=True) if said == "above"]
    names = list(dict.fromkeys(clear))
    return words("study").say(
        "said-skill",
        "no_clock" if not judged else "clock" if clear else "unclear",
        **{"label": label, "judged": len(judged), "clear": len(clear), "worse": says.count("below")},
        **{"named": len(names), "names": listed(names), "predictors": len({row.predictor for row in judged})},
    )
