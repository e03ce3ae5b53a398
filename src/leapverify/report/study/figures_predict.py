"""Figures of the predictions: acceptance, gain fraction, the momentum rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from leapverify.analysis.over_seeds import OverSeeds
from leapverify.report.kit.panels import Axis, Figure, Key, Panel, Spec, curve, grid, line_at
from leapverify.report.kit.run import CRITERIA, REGIMES, Run, seeds_text
from leapverify.report.kit.theme import REGIME_MARKS, Mark, plain, series_mark
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.tables import MODELS, paper_value

Cell = tuple[float, float, float | None, float | None]
"""x, y, and the ends of the interval."""
MOMENTUM_ROWS = ("momentum", "adam-constant", "adam")
NO_SWEEP = "no predictions were made in this run"
FLOOR, CEILING = -2.0, 1.5
"""Gain fractions beyond are drawn at the edge: momentum's reach -10,000."""


def acceptance(analysis: Analysis) -> Figure:
    """Acceptance rate by predictor, horizon and regime, one state per criterion."""
    run, title = analysis.run, "How often is a prediction accepted?"
    if not run.predictions:
        return Figure("acceptance", title, "", why=NO_SWEEP)
    views = []
    for criterion in CRITERIA:
        rates = analysis.rates[criterion]
        panels = [
            _panel(
                name, [_course(run, name, regime, rates.get, 100.0, " %") for regime in run.swept_regimes], "not judged"
            )
            for name in run.predictors
        ]
        view = grid(panels, horizon_axis(run), Axis("accepted, %", {"range": [-4, 104], "dtick": 25}), columns=5,
                    narrow_columns=2, height_px=130, choice=(criterion,))  # fmt: skip
        views.append(view)
    return Figure(
        "acceptance",
        title,
        "Share of predictions that pass, mean over seeds with a 95 % interval over seeds; point at a mark for n. Where "
        "every seed has 0 or every seed 100 %, it is Wilson's interval of the pooled tries. Control for strict and "
        "paired: random, a step of linear's length in a random direction; hold, which changes nothing, never passes "
        "them. Control for adaptive and proximity: hold. The sigma of adaptive contains the loss's own trend, so hold "
        "and random pass it nearly always. "
        f"Gaps are cells without predictions; the tables say why. {_counts(run)}",
        views,
        {"criterion": CRITERIA},
        [Key(regime, REGIME_MARKS[regime]) for regime in run.swept_regimes],
    )


def gain(analysis: Analysis) -> Figure:
    """Median gain fraction by predictor, horizon and regime."""
    run, title = analysis.run, "How much of the real progress does a prediction make?"
    if not run.predictions:
        return Figure("gain", title, "", why=NO_SWEEP)
    cells = analysis.gain_fractions
    panels = [
        _panel(
            name,
            [_course(run, name, regime, cells.get, 1.0, "", (FLOOR, CEILING)) for regime in run.swept_regimes],
            "no gain to compare",
            [line_at(0, dash="solid", color="@muted"), line_at(1, dash="dot")],
        )
        for name in run.predictors
    ]
    y = Axis("gain fraction", {"range": [FLOOR - 0.15, CEILING + 0.15], "dtick": 1})
    return Figure(
        "gain",
        title,
        "Gain fraction: loss won by the prediction over loss won by the K real steps; 1 (dotted) is as good as "
        "training, 0 nothing, below 0 worse than standing still. Median within a seed, mean over seeds, 95 % "
        f"interval over seeds. Marks at {FLOOR:g} or {CEILING:g} lie beyond the axis. Only where the real steps "
        f"lowered the loss: {_gain_counts(analysis)}. A line from a few values says "
        "little: the numbers below say where it can be told from 0, beside the median steps gained.",
        [grid(panels, horizon_axis(run), y, columns=5, narrow_columns=2, height_px=130)],
        legend=[Key(regime, REGIME_MARKS[regime]) for regime in run.swept_regimes],
    )


def momentum(analysis: Analysis) -> Figure:
    """Loss ratio of momentum, adam and adam-constant beside the paper's momentum."""
    run, title = analysis.run, "Momentum against the Adam recurrences"
    known = [name for name in MOMENTUM_ROWS if name in run.predictors]
    if not known:
        return Figure("momentum", title, "", why="neither momentum nor adam was among the predictors")
    ratios = analysis.loss_ratios
    traces, legend = [], []
    for index, name in enumerate(known):
        mark = series_mark(index)
        cells = [(k, ratios[name, k]) for k in run.horizons if ratios[name, k].mean is not None]
        text = [f"K = {k}: {c.mean:.5g} times L_t{_ends(c)}, n = {c.n}, seeds: {c.seeds}" for k, c in cells]
        # A logarithmic axis has no place for an end at or below 0.
        points = [
            (k, c.mean or 0.0, c.low if c.low and c.low > 0 else None, c.high if c.low and c.low > 0 else None)
            for k, c in cells
        ]
        traces.append(with_marks(points, mark, plain(name), text))
        legend.append(Key(name, mark))
    for index, (model, label) in enumerate(MODELS.items()):
        mark = Mark("@muted", ("triangle-up", "square", "diamond")[index], ("dot", "dash", "dashdot")[index])
        rows = paper_value("momentum", model, "predicted")
        actual = paper_value("momentum", model, "actual")
        values = [loss / actual for loss in rows.values()]
        text = [f"paper, {label}, K = {k}: {value:.0f} times L_t" for k, value in zip(rows, values, strict=True)]
        points = [(int(k), value, None, None) for k, value in zip(rows, values, strict=True)]
        traces.append(with_marks(points, mark, label, text, 1.2))
        legend.append(Key(f"momentum in the paper, {label}", mark))
    y = Axis("predicted / present loss", {"type": "log", "exponentformat": "power", "dtick": 1})
    shown = [row for row in ratios.values() if row.predictor in known]
    made, exploded = sum(row.n for row in shown), sum(row.nonfinite for row in shown)
    lost = f"{exploded} predictions were not finite and are left out. " if exploded else ""
    return Figure(
        "momentum",
        title,
        "Loss of the predicted weights over the present loss, all transition and stable checkpoints, mean over "
        "seeds of each seed's mean with its 95 % interval; 1 is no change. momentum is the paper's eq. 3 as printed "
        "(no learning rate, no minus sign); adam runs the optimizer's own recurrences with zero gradient. "
        f"{lost}n = {made} predictions of "
        f"{seeds_text(len(run.seeds))}.",
        [grid([Panel("", traces, [line_at(1)])], horizon_axis(run), y, columns=1, height_px=300)],
        legend=legend,
    )


def _ends(found: OverSeeds) -> str:
    return "" if found.low is None or found.high is None else f" (95 % {found.low:.5g} to {found.high:.5g})"


def _panel(name: str, traces: Sequence[Spec], note: str, shapes: Sequence[Spec] = ()) -> Panel:
    return Panel(name, traces, shapes, "" if any(trace["x"] for trace in traces) else note)


def _course(
    run: Run,
    name: str,
    regime: str,
    cell: Callable[[tuple[str, str, int]], OverSeeds | None],
    scale: float,
    unit: str,
    clip: tuple[float, float] | None = None,
) -> Spec:
    found = [(k, cell((regime, name, k))) for k in run.horizons]
    low, high = clip or (-math.inf, math.inf)
    cells: list[Cell] = []
    text = []
    for k, c in found:
        if c is None or c.mean is None:
            continue
        interval = ""
        ends: tuple[float | None, float | None] = (None, None)
        if c.low is not None and c.high is not None:
            interval = f"<br>95 % {c.low * scale:.3g} to {c.high * scale:.3g}{unit}"
            ends = min(max(c.low * scale, low), high), min(max(c.high * scale, low), high)
        cells.append((k, min(max(c.mean * scale, low), high), *ends))
        value = f"{c.mean * scale:.3g}{unit}"
        text.append(f"{plain(name)}, {regime}, K = {k}<br>{value}, n = {c.n}, seeds: {c.seeds}{interval}")
    return with_marks(cells, REGIME_MARKS[regime], regime, text)


def with_marks(cells: Sequence[Cell], mark: Mark, name: str, text: Sequence[str], width: float = 2) -> Spec:
    """A line with marks, and interval bars where both ends exist."""
    trace = curve([cell[0] for cell in cells], [cell[1] for cell in cells], mark, width=width, name=name)
    trace |= {"mode": "lines+markers", "marker": {"color": mark.color, "symbol": mark.symbol, "size": 6}}
    trace |= {"text": list(text), "hovertemplate": "%{text}<extra></extra>"}
    if any(cell[2] is not None for cell in cells):
        bars = {"type": "data", "symmetric": False, "color": mark.color, "thickness": 1.2, "width": 2}
        below = [max(0.0, y - (y if low is None else low)) for _, y, low, _ in cells]
        above = [max(0.0, (y if high is None else high) - y) for _, y, _, high in cells]
        trace["error_y"] = bars | {"arrayminus": below, "array": above}
    return trace


def horizon_axis(run: Run) -> Axis:
    """The horizons K, on a scale of steps."""
    return Axis("horizon K, steps", {"tickvals": _spread(run.horizons), "range": [0, run.horizons[-1] * 1.06]})


def _spread(horizons: Sequence[int]) -> list[int]:
    # Ticks closer than a sixth of the axis would overprint in a small panel.
    shown: list[int] = []
    for horizon in reversed(horizons):
        if not shown or shown[-1] - horizon >= horizons[-1] / 4.5:
            shown.append(horizon)
    return shown[::-1]


def _gain_counts(analysis: Analysis) -> str:
    found = analysis.gain_fractions.values()
    out = sum(row.missing for row in found)
    lost = f"{out} more are left out because the run itself did not improve or had ended"
    return f"n = {sum(row.n for row in found)} predictions of {seeds_text(len(analysis.run.seeds))}, {lost}"


def _counts(run: Run, regimes: Sequence[str] = REGIMES) -> str:
    shown = [row for row in run.predictions if row.regime in regimes]
    made = sum(row.status != "declined" for row in shown)
    declined = len(shown) - made
    return f"n = {made} predictions of {seeds_text(len(run.seeds))}" + (
        f", {declined} more declined." if declined else "."
    )
