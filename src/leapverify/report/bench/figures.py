"""The bench's figures: acceptance, persistence and worth of every predictor, and acceptance by K."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from leapverify.analysis.bench.rows import CONTROLS, Bench
from leapverify.analysis.bench.values import Place, Ranking, standing
from leapverify.analysis.over_seeds import OverSeeds
from leapverify.report.kit.panels import Axis, Figure, Key, Panel, Spec, View, axis_title, base_layout, grid
from leapverify.report.kit.run import REGIMES, seeds_text
from leapverify.report.kit.theme import REGIME_MARKS, Mark, plain

ROW_PX, LEFT_PX = 24, 132
EVERY = Mark("@ink", "circle", "solid")
"""Of marks that stand for every regime."""
KEPT = (-1.0, 2.0)
"""Persistence beyond is drawn at the edge."""

Panels = Sequence[tuple[str, tuple[float, float], float | None, Sequence[Spec]]]
"""Heading, range and line of each panel, and what is drawn in it."""


def bench_figures(bench: Bench, places: Sequence[Place]) -> dict[str, Figure]:
    """Every figure of a bench by name."""
    drawn = [predictors_figure(bench, places), horizons_figure(bench, places)]
    return {figure.name: figure for figure in drawn}


def predictors_figure(bench: Bench, places: Sequence[Place]) -> Figure:
    """Paired acceptance, persistence and verified value of every predictor, the best at the top."""
    reach = float(bench.headline_steps)
    worth = [(place.headline.verified_value, place.headline) for place in places]
    low = max(-reach, min((found.mean or 0.0 for found, _ in worth), default=0.0) - 0.05 * reach)
    high = min(reach, max([0.2 * reach, *((found.high or 0.0) * 1.05 for found, _ in worth)]))
    regimes = _by_regime(bench, places)
    panels: Panels = (
        ("accepted by paired, %", (-3.0, 103.0), None, _traces(regimes, lambda row: row.accepted, 100.0, " %")),
        ("persistence", KEPT, 1.0, _traces(regimes, lambda row: row.persistence, 1.0, "", KEPT)),
        ("verified value, steps", (low, high), 0.0,
         _traces([("every regime", EVERY, [row for _, row in worth])], lambda row: row.verified_value, 1.0, " steps",
                 (low, high))),
    )  # fmt: skip
    attempts = sum(place.headline.n for place in places)
    return Figure(
        "bench",
        "Which predictors pass, persist and pay?",
        f"Every predictor at K = {bench.headline_steps}, in the order of the leaderboard; hold and random, in "
        "brackets, are controls. Left: share of predictions that paired accepts. Middle: share of the gain that is "
        "left after R more real steps, median; 1 (dotted) keeps it all, and no mark means that nothing was gained. "
        "Right: steps gained × persistence of accepted predictions, less the cost of all, for each attempt in every "
        "regime; 0 (dotted) pays nothing. Means over seeds, bars are 95 % intervals over seeds; what lies beyond an "
        "axis is drawn at its edge. "
        f"n = {attempts} attempts of {seeds_text(len(bench.seeds))}.",
        [_rows([place.headline for place in places], panels)],
        legend=[*(Key(name, REGIME_MARKS[name]) for name in _drawn(bench)), Key("every regime", EVERY)],
    )


Group = tuple[str, Mark, Sequence[Ranking]]


def _by_regime(bench: Bench, places: Sequence[Place]) -> list[Group]:
    return [
        (regime, REGIME_MARKS[regime], [standing(bench, place.predictor, regime=regime) for place in places])
        for regime in _drawn(bench)
    ]


def _drawn(bench: Bench) -> Sequence[str]:
    """The regimes; the first checkpoint, which has none yet, only where there is nothing else."""
    return [name for name in bench.regimes if name in REGIMES] or bench.regimes


def _traces(
    groups: Sequence[Group],
    value: Callable[[Ranking], OverSeeds],
    scale: float,
    unit: str,
    clip: tuple[float, float] = (-math.inf, math.inf),
) -> list[Spec]:
    """One trace a group, its marks a little above or below the middle of each predictor's row."""
    return [
        _trace(group, value, scale, unit, clip, 0.2 * ((len(groups) - 1) / 2 - index))
        for index, group in enumerate(groups)
    ]


def _trace(
    group: Group,
    value: Callable[[Ranking], OverSeeds],
    scale: float,
    unit: str,
    clip: tuple[float, float],
    offset: float,
) -> Spec:
    label, mark, rows = group
    x, y, text, below, above = [], [], [], [], []
    for index, row in enumerate(rows):
        found = value(row)
        if found.mean is None:
            continue
        mean, low, high = (
            _within(found.mean if end is None else end, scale, clip) for end in (found.mean, found.low, found.high)
        )
        x.append(mean)
        y.append(offset - index)
        below.append(max(0.0, mean - low))
        above.append(max(0.0, high - mean))
        text.append(f"{plain(row.predictor)}, {label}<br>{_said(found, scale, unit)}")
    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.2, "width": 0}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label,
        "x": x,
        "y": y,
        "text": text,
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": mark.color, "symbol": mark.symbol, "size": 6},
        "error_x": {**bars, "color": mark.color},
        "cliponaxis": False,
    }


def _within(value: float, scale: float, clip: tuple[float, float]) -> float:
    return float(f"{min(max(value * scale, clip[0]), clip[1]):.6g}")


def _said(found: OverSeeds, scale: float, unit: str) -> str:
    ends = ""
    if found.low is not None and found.high is not None:
        ends = f"<br>95 % {found.low * scale:.3g} to {found.high * scale:.3g}{unit}"
    return f"{(found.mean or 0.0) * scale:.3g}{unit}, n = {found.n}, seeds: {found.seeds}{ends}"


def _rows(rows: Sequence[Ranking], panels: Panels) -> View:
    """Panels that share their rows, side by side, and one above the other on a phone."""
    names = [f"[{plain(row.predictor)}]" if row.control else plain(row.predictor) for row in rows]
    ticks = {"tickmode": "array", "tickvals": [-index for index in range(len(rows))], "ticktext": names}
    y = Axis("", {**ticks, "range": [0.6 - len(rows), 0.6], "tickfont": {"size": 11, "color": "@ink"}})
    drawn = [Panel(heading, traces) for heading, _, _, traces in panels]
    view = grid(drawn, Axis(""), y, columns=len(panels), height_px=max(80, ROW_PX * len(rows)))
    for layout in (view.layout, view.narrow):
        layout["margin"] |= {"l": LEFT_PX, "b": 30}
        for index, (_, ends, at, _) in enumerate(panels):
            suffix = str(index + 1) if index else ""
            axis = layout[f"xaxis{suffix}"]
            axis.pop("matches", None)
            axis |= {"range": list(ends), "showticklabels": True, "nticks": 6}
            if ends == KEPT:
                # The ends would meet the neighbours' labels.
                axis["tickvals"] = [-0.5, 0, 0.5, 1, 1.5]
            if at is not None:
                layout["shapes"].append(_upright(at, suffix))
    return view


def _upright(x: float, suffix: str) -> Spec:
    line = {"color": "@muted", "width": 1.2, "dash": "dot"}
    axes = {"xref": f"x{suffix}", "yref": f"y{suffix} domain"}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "layer": "below", "line": line, **axes}


Measure = tuple[Callable[[Ranking], OverSeeds], float, str, str]


def horizons_figure(bench: Bench, places: Sequence[Place]) -> Figure:
    """Every predictor x K as a map, one state a quantity."""
    measures: dict[str, Measure] = {
        "accepted by paired, %": (lambda row: row.accepted, 100.0, ".0f", "%"),
        "verified value, steps": (lambda row: row.verified_value, 1.0, "+.1f", "steps"),
        "gain fraction": (lambda row: row.gain_fraction, 1.0, ".2f", ""),
    }
    return Figure(
        "bench-horizons",
        "How far does each predictor reach?",
        "Every predictor by horizon K, every regime, mean over seeds; a predictor that is the same for every K has one "
        f"value. The colour of values and fractions ends at {bench.headline_steps} steps and at 1; the numbers go on. "
        "Point at a field for its interval and n; an empty one has no value, and the tables say why.",
        [_map(bench, places, label, measure) for label, measure in measures.items()],
        {"shown": tuple(measures)},
    )


def _map(bench: Bench, places: Sequence[Place], label: str, measure: Measure) -> View:
    value, scale, form, unit = measure
    names = [place.predictor for place in places][::-1]
    found = [[value(standing(bench, name, horizon=horizon)) for horizon in bench.horizons] for name in names]
    ends = (0.0, 100.0) if unit == "%" else (-1.0, 1.0) if not unit else (-bench.headline_steps, bench.headline_steps)
    colors = [[0, "@paper"], [1, "@c0"]] if unit == "%" else [[0, "@c1"], [0.5, "@paper"], [1, "@c0"]]
    trace: Spec = {
        "type": "heatmap",
        "x": [str(horizon) for horizon in bench.horizons],
        "y": [f"[{plain(name)}]" if name in CONTROLS else plain(name) for name in names],
        "z": [[None if cell.mean is None else float(f"{cell.mean * scale:.6g}") for cell in row] for row in found],
        "text": [["" if cell.mean is None else _fitting(cell.mean * scale, form) for cell in row] for row in found],
        "customdata": [[_said(cell, scale, f" {unit}" if unit else "") for cell in row] for row in found],
        "zmin": ends[0],
        "zmax": ends[1],
        "colorscale": colors,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "texttemplate": "%{text}",
        "textfont": {"size": 10},
        "hoverongaps": False,
        "hovertemplate": "%{y}, K = %{x}<br>%{customdata}<extra></extra>",
    }
    axis = {"type": "category", "fixedrange": True, "showgrid": False, "ticks": ""}
    x = {**axis, "title": axis_title("horizon K, steps")}
    layout = base_layout(ROW_PX * len(names) + 62) | {
        "margin": {"l": LEFT_PX, "r": 14, "t": 10, "b": 52},
        "xaxis": {**x, "tickfont": {"size": 11, "color": "@muted"}},
        "yaxis": {**axis, "tickfont": {"size": 11, "color": "@ink"}},
    }
    return View((label,), [trace], layout, layout)


def _fitting(value: float, form: str) -> str:
    """A number short enough for a field on a phone."""
    if abs(value) < 9.95:
        return f"{value:{form}}"
    whole = f"{form.partition('.')[0]}.0"
    return f"{value:{whole}f}" if abs(value) < 9999.5 else f"{value:{whole}e}"
