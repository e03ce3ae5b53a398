"""Figures of the predictions: acceptance, gain fraction, the momentum rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from leapverify.analysis.over_seeds import OverSeeds
from leapverify.analysis.study.acceptance import SweepCell
from leapverify.analysis.vocabulary import CRITERIA, REGIMES
from leapverify.analysis.wording import counted
from leapverify.report.kit.panels import Axis, Figure, FigureView, LegendKey, Panel, Spec, grid
from leapverify.report.kit.run import Run
from leapverify.report.kit.table import ends_text
from leapverify.report.kit.theme import REGIME_MARKS, Mark, plain, series_mark
from leapverify.report.kit.traces import Point, line_at, with_marks
from leapverify.report.kit.words import words
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.paper import MODELS, paper_value
from leapverify.report.study.tables_predict import MOMENTUM_ROWS

NO_SWEEP = "no predictions were made in this run"
FLOOR, CEILING = -2.0, 1.5
"""Gain fractions beyond are drawn at the edge: momentum's reach -10,000."""


def acceptance(analysis: Analysis) -> Figure:
    """Acceptance rate by predictor, horizon and regime, one state per criterion."""
    run = analysis.run
    if not run.predictions:
        return words("study").empty("acceptance", NO_SWEEP)
    y = Axis("accepted, %", {"range": [-4, 104], "dtick": 25})
    views = []
    for criterion in CRITERIA:
        panels = [_panel(run, name, analysis.rates[criterion], "not judged", 100.0, " %") for name in run.predictors]
        views.append(by_predictor(run, panels, y, height_px=130, choice=(criterion,)))
    shown = [row for row in run.predictions if row.regime in REGIMES]
    made = sum(row.status != "declined" for row in shown)
    return words("study").figure(
        "acceptance",
        views,
        controls={"criterion": CRITERIA},
        legend=_regime_keys(run),
        made=made,
        seeds=counted(len(run.seeds), "seed"),
        declined=f", {len(shown) - made} more declined" if made < len(shown) else "",
    )


def gain(analysis: Analysis) -> Figure:
    """Median gain fraction by predictor, horizon and regime."""
    run, cells = analysis.run, analysis.gain_fractions
    if not run.predictions:
        return words("study").empty("gain", NO_SWEEP)
    lines = [line_at(0, dash="solid", color="@muted"), line_at(1, dash="dot")]
    clip = (FLOOR, CEILING)
    panels = [_panel(run, name, cells, "no gain to compare", 1.0, "", clip, lines) for name in run.predictors]
    y = Axis("gain fraction", {"range": [FLOOR - 0.15, CEILING + 0.15], "dtick": 1})
    return words("study").figure(
        "gain",
        [by_predictor(run, panels, y, height_px=130)],
        legend=_regime_keys(run),
        floor=FLOOR,
        ceiling=CEILING,
        n=sum(row.n for row in cells.values()),
        out=sum(row.missing for row in cells.values()),
        seeds=counted(len(run.seeds), "seed"),
    )


def momentum(analysis: Analysis) -> Figure:
    """Loss ratio of momentum, adam and adam-constant beside the paper's momentum."""
    run, ratios = analysis.run, analysis.loss_ratios
    known = [name for name in MOMENTUM_ROWS if name in run.predictors]
    if not known:
        return words("study").empty("momentum", "neither momentum nor adam was among the predictors")
    traces, legend = [], []
    for index, name in enumerate(known):
        points = [_ratio(k, ratios[name, k]) for k in run.horizons if ratios[name, k].mean is not None]
        traces.append(with_marks(points, series_mark(index), plain(name)))
        legend.append(LegendKey(name, series_mark(index)))
    looks = (("triangle-up", "dot"), ("square", "dash"), ("diamond", "dashdot"))
    for (model, label), look in zip(MODELS.items(), looks, strict=True):
        mark, actual = Mark("@muted", *look), paper_value("momentum", model, "actual")
        points = [
            Point(int(k), loss / actual, text=f"paper, {label}, K = {k}: {loss / actual:.0f} times L_t")
            for k, loss in paper_value("momentum", model, "predicted").items()
        ]
        traces.append(with_marks(points, mark, label, 1.2))
        legend.append(LegendKey(f"momentum in the paper, {label}", mark))
    y = Axis("predicted / present loss", {"type": "log", "exponentformat": "power", "dtick": 1})
    shown = [row for row in ratios.values() if row.predictor in known]
    exploded = sum(row.nonfinite for row in shown)
    return words("study").figure(
        "momentum",
        [grid([Panel("", traces, [line_at(1)])], horizon_axis(run), y, columns=1, height_px=300)],
        legend=legend,
        lost=f"{exploded} predictions were not finite and are left out. " if exploded else "",
        made=sum(row.n for row in shown),
        seeds=counted(len(run.seeds), "seed"),
    )


def _ratio(horizon: int, found: OverSeeds) -> Point:
    ends = ends_text(found.low, found.high, ".5g")
    text = f"K = {horizon}: {found.mean:.5g} times L_t" + (f" (95 % {ends})" if ends else "")
    # A logarithmic axis has no place for an end at or below 0.
    low, high = (found.low, found.high) if found.low and found.low > 0 else (None, None)
    return Point(horizon, found.mean or 0.0, low, high, f"{text}, n = {found.n}, seeds: {found.seeds}")


def _panel(
    run: Run,
    name: str,
    cells: Mapping[SweepCell, OverSeeds],
    nothing: str,
    scale: float,
    unit: str,
    clip: tuple[float, float] = (-math.inf, math.inf),
    lines: Sequence[Spec] = (),
) -> Panel:
    """One predictor's numbers by horizon, a line a regime; `nothing` is said where there is none."""

    def clipped(value: float | None) -> float | None:
        return None if value is None else min(max(value * scale, clip[0]), clip[1])

    traces = []
    for regime in run.swept_regimes:
        points = []
        for k in run.horizons:
            found = cells.get(SweepCell(regime, name, k))
            if found is not None and found.mean is not None:
                ends = ends_text(found.low, found.high, ".3g", scale)
                said = f"{plain(name)}, {regime}, K = {k}<br>{found.mean * scale:.3g}{unit}, n = {found.n}, seeds: "
                said += f"{found.seeds}" + (f"<br>95 % {ends}{unit}" if ends else "")
                low, high = map(clipped, (found.low, found.high))
                points.append(Point(k, clipped(found.mean) or 0.0, low, high, said))
        traces.append(with_marks(points, REGIME_MARKS[regime], regime))
    return Panel(name, traces, lines, "" if any(trace["x"] for trace in traces) else nothing)


def by_predictor(
    run: Run, panels: Sequence[Panel], y: Axis, height_px: int, choice: tuple[str, ...] = ()
) -> FigureView:
    """A small panel for each predictor over the horizons."""
    return grid(panels, horizon_axis(run), y, columns=5, narrow_columns=2, height_px=height_px, choice=choice)


def horizon_axis(run: Run) -> Axis:
    """The horizons K, on a scale of steps."""
    last, shown = run.horizons[-1], list[int]()
    for horizon in reversed(run.horizons):
        # Ticks closer than a sixth of the axis would overprint in a small panel.
        if not shown or shown[-1] - horizon >= last / 4.5:
            shown.append(horizon)
    return Axis("horizon K, steps", {"tickvals": shown[::-1], "range": [0, last * 1.06]})


def _regime_keys(run: Run) -> list[LegendKey]:
    return [LegendKey(regime, REGIME_MARKS[regime]) for regime in run.swept_regimes]
