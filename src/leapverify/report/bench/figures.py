"""The bench's figures: acceptance, persistence and worth of every predictor, and acceptance by K."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from leapverify.analysis.bench.rows import Bench
from leapverify.analysis.bench.values import Place, Ranking, standing
from leapverify.analysis.over_seeds import OverSeeds
from leapverify.analysis.vocabulary import REGIMES
from leapverify.analysis.wording import counted
from leapverify.report.kit.panels import Axis, Figure, FigureView, LegendKey, Panel, Spec, axis_title, chart, grid
from leapverify.report.kit.table import ends_text
from leapverify.report.kit.theme import REGIME_MARKS, Mark, plain
from leapverify.report.kit.traces import error_bars, heat_map, markers
from leapverify.report.kit.words import words

ROW_PX, LEFT_PX = 24, 132
EVERY = Mark("@ink", "circle", "solid")
"""Of marks that stand for every regime."""
KEPT = (-1.0, 2.0)
"""Persistence beyond is drawn at the edge."""


class Marked(NamedTuple):
    """Rows that are drawn with one mark: every predictor in one regime, or in all."""

    label: str
    mark: Mark
    rows: Sequence[Ranking]


class Measure(NamedTuple):
    """One quantity of a `Ranking`, as a panel or a map shows it."""

    label: str
    name: str
    scale: float = 1.0
    unit: str = ""
    form: str = ""
    ends: tuple[float, float] = (-math.inf, math.inf)
    """Of the panel's axis; what lies beyond is drawn at the edge."""
    clipped: bool = True
    line: float | None = None
    """Where the panel has an upright line."""

    def of(self, row: Ranking) -> OverSeeds:
        """The quantity of one row."""
        found: OverSeeds = attrgetter(self.name)(row)
        return found

    def said(self, found: OverSeeds) -> str:
        """What stands beside the pointer."""
        ends = ends_text(found.low, found.high, ".3g", self.scale)
        interval = f"<br>95 % {ends}{self.unit}" if ends else ""
        return f"{(found.mean or 0.0) * self.scale:.3g}{self.unit}, n = {found.n}, seeds: {found.seeds}{interval}"

    def within(self, value: float) -> float:
        """A value on the axis, six digits."""
        low, high = self.ends if self.clipped else (-math.inf, math.inf)
        return float(f"{min(max(value * self.scale, low), high):.6g}")


def bench_figures(bench: Bench, places: Sequence[Place]) -> dict[str, Figure]:
    """Every figure of a bench by name."""
    drawn = [predictors_figure(bench, places), horizons_figure(bench, places)]
    return {figure.name: figure for figure in drawn}


def predictors_figure(bench: Bench, places: Sequence[Place]) -> Figure:
    """Paired acceptance, persistence and verified value of every predictor, the best at the top."""
    rows, reach = [place.headline for place in places], float(bench.headline_steps)
    worth = [row.verified_value for row in rows]
    low = max(-reach, min((found.mean or 0.0 for found in worth), default=0.0) - 0.05 * reach)
    high = min(reach, max([0.2 * reach, *((found.high or 0.0) * 1.05 for found in worth)]))
    # The first checkpoint, which has no regime yet, is drawn only where there is nothing else.
    drawn = [name for name in bench.regimes if name in REGIMES] or bench.regimes
    regimes = [
        Marked(name, REGIME_MARKS[name], [standing(bench, place.predictor, regime=name) for place in places])
        for name in drawn
    ]
    panels = (
        (Measure("accepted by paired, %", "accepted", 100.0, " %", ends=(-3.0, 103.0), clipped=False), regimes),
        (Measure("persistence", "persistence", ends=KEPT, line=1.0), regimes),
        (Measure("verified value, steps", "verified_value", unit=" steps", ends=(low, high), line=0.0),
         [Marked("every regime", EVERY, rows)]),
    )  # fmt: skip
    return words("bench").figure(
        "bench",
        [_side_by_side(rows, panels)],
        legend=[*(LegendKey(name, REGIME_MARKS[name]) for name in drawn), LegendKey("every regime", EVERY)],
        K=bench.headline_steps,
        attempts=sum(row.n for row in rows),
        seeds=counted(len(bench.seeds), "seed"),
    )


def _trace(marked: Marked, measure: Measure, offset: float) -> Spec:
    """One regime's marks, a little above or below the middle of each predictor's row."""
    x, y, text, below, above = [], [], [], [], []
    for index, row in enumerate(marked.rows):
        found = measure.of(row)
        if found.mean is None:
            continue
        mean, low, high = (
            measure.within(found.mean if end is None else end) for end in (found.mean, found.low, found.high)
        )
        x.append(mean)
        y.append(offset - index)
        below.append(max(0.0, mean - low))
        above.append(max(0.0, high - mean))
        text.append(f"{plain(row.predictor)}, {marked.label}<br>{measure.said(found)}")
    bars = error_bars(below, above, marked.mark.color, width=0)
    return markers(x, y, marked.mark, marked.label, 6, text=text, hovertemplate="%{text}<extra></extra>", error_x=bars,
                   cliponaxis=False)  # fmt: skip


def _side_by_side(rows: Sequence[Ranking], panels: Sequence[tuple[Measure, Sequence[Marked]]]) -> FigureView:
    """Panels that share their rows, side by side, and one above the other on a phone."""
    ticks = {"tickmode": "array", "tickvals": [-index for index in range(len(rows))], "ticktext": [*map(_label, rows)]}
    y = Axis("", {**ticks, "range": [0.6 - len(rows), 0.6], "tickfont": {"size": 11, "color": "@ink"}})
    drawn = []
    for measure, groups in panels:
        middle = (len(groups) - 1) / 2
        traces = [_trace(group, measure, 0.2 * (middle - index)) for index, group in enumerate(groups)]
        drawn.append(Panel(measure.label, traces))
    view = grid(drawn, Axis(""), y, columns=len(panels), height_px=max(80, ROW_PX * len(rows)))
    for layout in (view.layout, view.narrow):
        layout["margin"] |= {"l": LEFT_PX, "b": 30}
        for index, (measure, _) in enumerate(panels):
            suffix = str(index + 1) if index else ""
            axis = layout[f"xaxis{suffix}"]
            axis.pop("matches", None)
            axis |= {"range": list(measure.ends), "showticklabels": True, "nticks": 6}
            if measure.ends == KEPT:
                # The ends would meet the neighbours' labels.
                axis["tickvals"] = [-0.5, 0, 0.5, 1, 1.5]
            if measure.line is not None:
                layout["shapes"].append(_upright(measure.line, suffix))
    return view


def _label(row: Ranking) -> str:
    """A predictor's name; a control's in brackets."""
    return f"[{plain(row.predictor)}]" if row.control else plain(row.predictor)


def _upright(x: float, suffix: str) -> Spec:
    line = {"color": "@muted", "width": 1.2, "dash": "dot"}
    axes = {"xref": f"x{suffix}", "yref": f"y{suffix} domain"}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "layer": "below", "line": line, **axes}


MAPS = (
    Measure("accepted by paired, %", "accepted", 100.0, " %", ".0f"),
    Measure("verified value, steps", "verified_value", 1.0, " steps", "+.1f"),
    Measure("gain fraction", "gain_fraction", 1.0, "", ".2f"),
)


def horizons_figure(bench: Bench, places: Sequence[Place]) -> Figure:
    """Every predictor x K as a map, one state a quantity."""
    views = [_map(bench, places, measure) for measure in MAPS]
    shown = {"shown": tuple(measure.label for measure in MAPS)}
    return words("bench").figure("bench-horizons", views, controls=shown, K=bench.headline_steps)


def _map(bench: Bench, places: Sequence[Place], measure: Measure) -> FigureView:
    rows = [place.headline for place in places][::-1]
    found = [[measure.of(standing(bench, row.predictor, horizon=k)) for k in bench.horizons] for row in rows]
    reach = {"": 1.0, " steps": bench.headline_steps}.get(measure.unit)
    both_ways = [[0, "@c1"], [0.5, "@paper"], [1, "@c0"]]
    trace = heat_map(
        [str(horizon) for horizon in bench.horizons],
        [*map(_label, rows)],
        [[None if cell.mean is None else measure.within(cell.mean) for cell in row] for row in found],
        10,
        text=[["" if cell.mean is None else _fitting(cell.mean * measure.scale, measure.form) for cell in row]
              for row in found],
        customdata=[[measure.said(cell) for cell in row] for row in found],
        zmin=0.0 if reach is None else -reach,
        zmax=reach or 100.0,
        colorscale=[[0, "@paper"], [1, "@c0"]] if reach is None else both_ways,
        showscale=False,
        texttemplate="%{text}",
        hovertemplate="%{y}, K = %{x}<br>%{customdata}<extra></extra>",
    )  # fmt: skip
    axis = {"type": "category", "showgrid": False, "ticks": ""}
    margin = {"l": LEFT_PX, "r": 14, "t": 10, "b": 52}
    x = {**axis, "title": axis_title("horizon K, steps")}
    layout = chart(ROW_PX * len(rows) + 62, margin, x, axis)
    return FigureView((measure.label,), [trace], layout, layout)


def _fitting(value: float, form: str) -> str:
    """A number short enough for a field on a phone."""
    if abs(value) < 9.95:
        return f"{value:{form}}"
    whole = f"{form.partition('.')[0]}.0"
    return f"{value:{whole}f}" if abs(value) < 9999.5 else f"{value:{whole}e}"
