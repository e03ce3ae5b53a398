"""Figures of the recognizer and of what everything costs: skill, sensitivity, seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leapverify.analysis.study.sensitivity import SensitivityPoint
from leapverify.analysis.study.skill import CLOCK, Skill
from leapverify.analysis.vocabulary import CRITERIA
from leapverify.analysis.wording import counted
from leapverify.report.kit.panels import Axis, Figure, FigureView, Panel, axis_title, chart
from leapverify.report.kit.table import ends_text, scaled
from leapverify.report.kit.theme import plain, series_mark
from leapverify.report.kit.traces import Point, heat_map, horizontal_bars, line_at, with_marks
from leapverify.report.kit.words import words
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.figures_predict import NO_SWEEP, by_predictor

SIGNAL_NAMES = {
    "similarity": "similarity",
    "similarity_centred": "centred similarity",
    "straightness": "straightness",
    "loss_curvature": "flatness of the loss curve",
    CLOCK: "the clock (control)",
}


def skill(analysis: Analysis) -> Figure:
    """AUC of each signal by predictor and horizon, one state per signal and criterion."""
    run = analysis.run
    if not run.predictions:
        return words("study").empty("skill", NO_SWEEP)
    views, y = [], Axis("AUC", {"range": [-0.05, 1.05], "dtick": 0.5})
    for criterion in CRITERIA:
        for signal, label in SIGNAL_NAMES.items():
            found = [row for row in analysis.skills[criterion] if row.signal == signal]
            panels = [_skill_panel(name, label, [r for r in found if r.predictor == name]) for name in run.predictors]
            views.append(by_predictor(run, panels, y, height_px=120, choice=(label, criterion)))
    controls = {"signal": list(SIGNAL_NAMES.values()), "accepted by": CRITERIA}
    return words("study").figure("skill", views, controls=controls, seeds=counted(len(run.seeds), "seed"))


def _skill_panel(name: str, label: str, rows: Sequence[Skill]) -> Panel:
    points = [Point(row.horizon, row.auc, row.low, row.high, _said(row)) for row in rows if row.auc is not None]
    trace = with_marks(points, series_mark(0), label)
    return Panel(name, [trace], [line_at(0.5, color="@ink")], "" if points else "nothing to rank")


def _said(row: Skill) -> str:
    text = f"{plain(row.predictor)}, K = {row.horizon}<br>AUC {row.auc:.2f}"
    ends = ends_text(row.low, row.high, ".2f")
    text += f"<br>95 % {ends}" if ends else ""
    if row.clock is not None and row.signal != CLOCK:
        ends = ends_text(row.beyond_low, row.beyond_high, "+.2f")
        text += f"<br>clock {row.clock:.2f}, beyond it {row.beyond_clock:+.2f}" + (f" (95 % {ends})" if ends else "")
    return f"{text}<br>n = {row.n}, {row.successes} accepted, seeds: {row.seeds}"


def sensitivity(analysis: Analysis) -> Figure:
    """Heat maps over (tau_low, tau_high): shares, agreement, acceptance in the stable regime."""
    points = analysis.sensitivity
    if not points:
        return words("study").empty("sensitivity", "no checkpoint has a similarity")
    predictor, horizon = analysis.sensitivity_of or ("none", 0)
    shown: dict[str, Callable[[SensitivityPoint], float | None]] = {
        "stable share": lambda point: point.share("stable"),
        "chaotic share": lambda point: point.share("chaotic"),
        "modal agreement": lambda point: point.agreement.modal,
    }
    if analysis.sensitivity_of:
        shown["acceptance when stable"] = lambda point: point.rate("stable").mean
        shown["acceptance in transition"] = lambda point: point.rate("transition").mean
    lows, highs = sorted({p.tau_low for p in points}), sorted({p.tau_high for p in points})
    at = {(point.tau_low, point.tau_high): point for point in points}
    views = []
    for label, value in shown.items():
        cells = [[scaled(value(at[low, high]), 100) if (low, high) in at else None for low in lows] for high in highs]
        views.append(_map(label, lows, highs, cells))
    return words("study").figure("sensitivity", views, controls={"shown": list(shown)}, predictor=plain(predictor),
                                 horizon=horizon, n=points[0].n)  # fmt: skip


def _map(label: str, lows: Sequence[float], highs: Sequence[float], cells: list[list[float | None]]) -> FigureView:
    trace = heat_map(
        [f"{low:.5f}" for low in lows],
        [f"{high:.5f}" for high in highs],
        cells,
        12,
        coloraxis="coloraxis",
        texttemplate="%{z:.0f}",
        hovertemplate="tau_low %{x}, tau_high %{y}: %{z:.1f} %<extra></extra>",
    )
    bar = {"title": {"text": "%"}, "thickness": 12, "outlinewidth": 0, "tickfont": {"color": "@muted"}}
    colors = {"cmin": 0, "cmax": 100, "colorscale": "Cividis", "showscale": True, "colorbar": bar}
    axis = {"type": "category", "showgrid": False}
    layout = chart(
        360,
        {"l": 104, "r": 10, "t": 10, "b": 72},
        {**axis, "title": axis_title("tau_low: chaotic below")},
        {**axis, "title": axis_title("tau_high: stable above")},
        ink="@muted",
        coloraxis=colors,
    )
    # On a phone the numbers in the cells need the room that the scale would take.
    narrow = layout | {"coloraxis": colors | {"showscale": False}, "margin": layout["margin"] | {"r": 34}}
    return FigureView((label,), [trace], layout, narrow)


def costs(analysis: Analysis) -> Figure:
    """Seconds of each part as a share of all."""
    rows = sorted((row for row in analysis.costs if row.ran), key=lambda row: row.seconds)
    if not rows:
        return words("study").empty("costs", "no seconds were recorded")
    share = [100 * (row.share or 0.0) for row in rows]
    trace = horizontal_bars(
        share,
        [row.part for row in rows],
        [f" {value:.1f} %, {row.seconds:.3g} s" for value, row in zip(share, rows, strict=True)],
        textposition="outside",
        textfont={"color": "@ink", "size": 12},
        cliponaxis=False,
        marker={"color": "@c0"},
        hovertemplate="%{y}: %{text}<extra></extra>",
    )
    x = {"title": axis_title("share of all seconds, %"), "gridcolor": "@grid", "range": [0, max(share) * 1.45]}
    margin = {"l": 76, "r": 20, "t": 6, "b": 46}
    layout = chart(34 * len(rows) + 64, margin, {**x, "zeroline": False}, {"ticklabelstandoff": 6}, y_size=12,
                   bargap=0.35)  # fmt: skip
    observed = next((row for row in rows if row.part == "observe"), None)
    return words("study").figure(
        "costs",
        [FigureView((), [trace], layout, layout)],
        observing=f"Observing costs {100 * (observed.of_training or 0):.2g} % of training. " if observed else "",
        checkpoints=len(analysis.run.checkpoints),
        seeds=len(analysis.run.seeds),
    )
