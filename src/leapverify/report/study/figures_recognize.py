"""Figures of the recognizer and of what everything costs: skill, sensitivity, seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leapverify.analysis.study.sensitivity import SensitivityPoint
from leapverify.analysis.study.skill import Skill
from leapverify.report.kit.panels import Axis, Figure, Panel, Spec, View, axis_title, base_layout, grid, line_at
from leapverify.report.kit.run import CRITERIA, seeds_text
from leapverify.report.kit.theme import plain, series_mark
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.figures_predict import NO_SWEEP, horizon_axis, with_marks

SIGNAL_NAMES = {
    "similarity": "similarity",
    "similarity_centred": "centred similarity",
    "straightness": "straightness",
    "loss_curvature": "flatness of the loss curve",
    "step": "the clock (control)",
}


def skill(analysis: Analysis) -> Figure:
    """AUC of each signal by predictor and horizon, one state per signal and criterion."""
    run, title = analysis.run, "Does the recognizer recognise anything?"
    if not run.predictions:
        return Figure("skill", title, "", why=NO_SWEEP)
    views = []
    for criterion in CRITERIA:
        for signal, label in SIGNAL_NAMES.items():
            panels = []
            for name in run.predictors:
                rows = [s for s in analysis.skills[criterion] if s.signal == signal and s.predictor == name]
                known = [row for row in rows if row.auc is not None]
                cells = [(row.horizon, row.auc or 0.0, row.low, row.high) for row in known]
                text = [
                    f"{plain(name)}, K = {s.horizon}<br>AUC {s.auc:.2f}"
                    + (f"<br>95 % {s.low:.2f} to {s.high:.2f}" if s.low is not None and s.high is not None else "")
                    + _beyond(s)
                    + f"<br>n = {s.n}, {s.successes} accepted, seeds: {s.seeds}"
                    for s in known
                ]
                panels.append(
                    Panel(
                        name,
                        [with_marks(cells, series_mark(0), label, text)],
                        [line_at(0.5, color="@ink")],
                        "" if known else "nothing to rank",
                    )
                )
            axis = Axis("AUC", {"range": [-0.05, 1.05], "dtick": 0.5})
            views.append(grid(panels, horizon_axis(run), axis, columns=5, narrow_columns=2, height_px=120,
                              choice=(label, criterion)))  # fmt: skip
    return Figure(
        "skill",
        title,
        "ROC AUC: the chance that a checkpoint from which the prediction is accepted has the higher signal than one "
        "from which it is rejected, with a 95 % interval over seeds. Dashed: 0.5, no skill; an interval across that "
        "line shows none. The clock ranks checkpoints by step alone, and which way it points depends on the study: a "
        "recognizer must beat the clock in its better direction, max(AUC, 1 − AUC), on the same checkpoints; point at "
        "a mark for the difference. Cells share checkpoints and are near-copies of each other. No mark: every "
        "prediction there had the same outcome, so nothing can be ranked. Checkpoints: all "
        f"that were swept, of {seeds_text(len(run.seeds))}.",
        views,
        {"signal": list(SIGNAL_NAMES.values()), "accepted by": CRITERIA},
    )


def sensitivity(analysis: Analysis) -> Figure:
    """Heat maps over (tau_low, tau_high): shares, agreement, acceptance in the stable regime."""
    points, title = analysis.sensitivity, "How much hangs on the two thresholds?"
    if not points:
        return Figure("sensitivity", title, "", why="no checkpoint has a similarity")
    predictor, horizon = analysis.sensitivity_of or ("none", 0)
    shown: dict[str, Callable[[SensitivityPoint], float | None]] = {
        "stable share": lambda point: point.share("stable"),
        "chaotic share": lambda point: point.share("chaotic"),
        "modal agreement": lambda point: point.agreement.modal,
    }
    if analysis.sensitivity_of:
        shown["acceptance when stable"] = lambda point: _rate(point, "stable")
        shown["acceptance in transition"] = lambda point: _rate(point, "transition")
    lows, highs = sorted({p.tau_low for p in points}), sorted({p.tau_high for p in points})
    at = {(point.tau_low, point.tau_high): point for point in points}
    views = []
    for label, value in shown.items():
        cells = [[_percent(value(at[low, high])) if (low, high) in at else None for low in lows] for high in highs]
        views.append(_heat_map(label, lows, highs, cells))
    return Figure(
        "sensitivity",
        title,
        "Every checkpoint relabelled from its recorded similarity, in per cent; thresholds are percentiles of all "
        "similarities of the run. A result that holds over the whole map does not depend on the cut points. "
        f"Acceptance is strict, of {plain(predictor)} at K = {horizon}. Empty cells: no such checkpoint was swept, "
        f"or one seed only. n = {points[0].n} similarities.",
        views,
        {"shown": list(shown)},
    )


def costs(analysis: Analysis) -> Figure:
    """Seconds of each part as a share of all."""
    rows = sorted((row for row in analysis.costs if row.ran), key=lambda row: row.seconds)
    title = "What each part cost"
    if not rows:
        return Figure("costs", title, "", why="no seconds were recorded")
    share = [100 * (row.share or 0.0) for row in rows]
    label = [f" {value:.1f} %, {row.seconds:.3g} s" for value, row in zip(share, rows, strict=True)]
    trace: Spec = {
        "type": "bar",
        "orientation": "h",
        "x": share,
        "y": [row.part for row in rows],
        "text": label,
        "textposition": "outside",
        "textfont": {"color": "@ink", "size": 12},
        "cliponaxis": False,
        "marker": {"color": "@c0"},
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }
    layout = base_layout(34 * len(rows) + 64) | {
        "margin": {"l": 76, "r": 20, "t": 6, "b": 46},
        "bargap": 0.35,
        "xaxis": {"title": axis_title("share of all seconds, %"), "gridcolor": "@grid", "range": [0, max(share) * 1.45],
                  "fixedrange": True, "tickfont": {"size": 11, "color": "@muted"}, "zeroline": False},
        "yaxis": {"fixedrange": True, "ticklabelstandoff": 6, "tickfont": {"size": 12, "color": "@ink"}},
    }  # fmt: skip
    observed = next((row for row in rows if row.part == "observe"), None)
    about = f"Observing costs {100 * (observed.of_training or 0):.2g} % of training. " if observed else ""
    return Figure(
        "costs",
        title,
        f"Seconds of all seeds together. {about}n = {len(analysis.run.checkpoints)} checkpoints of "
        f"{len(analysis.run.seeds)} seeds.",
        [View((), [trace], layout, layout)],
    )


def _beyond(row: Skill) -> str:
    if row.clock is None or row.beyond_clock is None or row.signal == "step":
        return ""
    ends = ""
    if row.beyond_low is not None and row.beyond_high is not None:
        ends = f" (95 % {row.beyond_low:+.2f} to {row.beyond_high:+.2f})"
    return f"<br>clock {row.clock:.2f}, beyond it {row.beyond_clock:+.2f}{ends}"


def _rate(point: SensitivityPoint, regime: str) -> float | None:
    return next((rate.mean for rate in point.acceptance if rate.regime == regime), None)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _heat_map(label: str, lows: Sequence[float], highs: Sequence[float], cells: list[list[float | None]]) -> View:
    trace: Spec = {
        "type": "heatmap",
        "x": [f"{low:.5f}" for low in lows],
        "y": [f"{high:.5f}" for high in highs],
        "z": cells,
        "coloraxis": "coloraxis",
        "xgap": 2,
        "ygap": 2,
        "texttemplate": "%{z:.0f}",
        "textfont": {"size": 12},
        "hoverongaps": False,
        "hovertemplate": "tau_low %{x}, tau_high %{y}: %{z:.1f} %<extra></extra>",
    }
    bar = {"title": {"text": "%"}, "thickness": 12, "outlinewidth": 0, "tickfont": {"color": "@muted"}}
    colors = {"cmin": 0, "cmax": 100, "colorscale": "Cividis", "showscale": True, "colorbar": bar}
    axis = {"type": "category", "fixedrange": True, "tickfont": {"size": 11, "color": "@muted"}, "showgrid": False}
    layout = base_layout(360) | {
        "coloraxis": colors,
        "margin": {"l": 104, "r": 10, "t": 10, "b": 72},
        "xaxis": {**axis, "title": axis_title("tau_low: chaotic below")},
        "yaxis": {**axis, "title": axis_title("tau_high: stable above")},
    }
    # On a phone the numbers in the cells need the room that the scale would take.
    narrow = layout | {"coloraxis": colors | {"showscale": False}}
    narrow["margin"] = layout["margin"] | {"r": 34}
    return View((label,), [trace], layout, narrow)
