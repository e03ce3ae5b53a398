"""The figure of a race: reported loss against what it cost, every arm, the ones that matter in colour."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from leapverify.analysis.race.arms import ArmRow, RaceCase, case_of
from leapverify.analysis.race.race import RaceAnalysis
from leapverify.analysis.race.wording import IN_NATS
from leapverify.analysis.wording import counted
from leapverify.io.records import RacePoint, RaceRun
from leapverify.report.kit.panels import Axis, Figure, FigureView, LegendKey, Panel, Spec, grid
from leapverify.report.kit.theme import Mark, plain
from leapverify.report.kit.traces import curve, line_at

ARM_MARKS: Mapping[str, Mark] = {
    "baseline": Mark("@ink", "circle", "solid"),
    "leap-auto": Mark("@c0", "diamond", "solid"),
    "leap-line-search": Mark("@c3", "triangle-up", "solid"),
    "leap-fixed": Mark("@c4", "square", "solid"),
    "anneal": Mark("@c2", "cross", "longdash"),
    "wsd": Mark("@c1", "triangle-down", "dashdot"),
}
"""Arms in colour; a shortened control has the colour of its arm, dotted."""
OTHER = Mark("@muted", "circle", "solid")
COSTS: Mapping[str, Callable[[RacePoint | RaceRun], float]] = {
    "forward tokens": lambda row: row.tokens,
    "seconds": lambda row: row.seconds,
}
"""What the reader can choose to pay in, and where a reading and a run keep it."""
RANGES = ("the end", "the whole run")
DECADES = 50.0
"""A loss that falls by more than this factor is drawn on a logarithmic axis."""

Course = Sequence[tuple[float, float]]
"""(cost, loss) along one arm."""


def race_figure(race: RaceAnalysis) -> Figure:
    """Reported loss against cost, one state for each race, cost and stretch."""
    title = "Loss against cost"
    if not race.points:
        return Figure("race", title, "", why="no reading of the reported loss was recorded")
    points: dict[RaceCase, dict[str, list[RacePoint]]] = defaultdict(lambda: defaultdict(list))
    for point in race.points:
        if point.stage == "race":
            points[case_of(point)][point.arm].append(point)
    names = {case: race.names[case] for case in race.by_case if case in points}
    seeds = {run.seed for run in race.runs if run.stage == "race"}
    views = [view for case in names for cost in COSTS for view in _views(race, case, points[case], cost)]
    arms = {row.arm for row in race.arms}
    return Figure(
        "race",
        title,
        "Reported loss, mean over seeds at the readings that all seeds of an arm have; the mark stands at the end of "
        "the run, mean cost and mean final loss, with the 95 % interval over seeds for the arms in colour. Lower and "
        "further left is better. Grey: the other arms, point at one for its name. Dotted: the baseline's schedule "
        "shortened to an arm's real steps. Dashed: the target, stated before the race. A loss that falls over decades "
        f"has a logarithmic axis. n = {counted(len(seeds), 'seed')}.",
        views,
        {"race": tuple(names.values()), "cost": tuple(COSTS), "shown": RANGES},
        _keys(arms),
    )


def _keys(arms: set[str]) -> list[LegendKey]:
    keys = []
    for arm, mark in ARM_MARKS.items():
        keys += [LegendKey(arm, mark)] if arm in arms else []
        short = f"shortened:{arm}"
        keys += [LegendKey(short, _mark(short))] if short in arms else []
    coloured = {key.label for key in keys}
    return [*keys, LegendKey("other arms", OTHER)] if arms - coloured else keys


def _mark(arm: str) -> Mark:
    own = ARM_MARKS.get(arm.removeprefix("shortened:"))
    if own is None:
        return OTHER
    return Mark(own.color, "x", "dot") if arm.startswith("shortened:") else own


def _views(
    race: RaceAnalysis, case: RaceCase, points: Mapping[str, Sequence[RacePoint]], cost: str
) -> list[FigureView]:
    at, name = COSTS[cost], race.names[case]
    rows = [row for row in race.arms if row.case == case]
    runs = race.by_case[case]
    courses = {row.arm: _course(points.get(row.arm, ()), at) for row in rows}
    # Grey first, so that what matters lies on top.
    ordered = sorted(rows, key=lambda row: (_mark(row.arm) != OTHER, row.arm == "baseline"))
    traces = []
    for row in ordered:
        traces += _traces(row, courses[row.arm], statistics.fmean(map(at, runs[row.arm].values())))
    target = next((row.target for row in rows if row.target is not None), None)
    shapes = [line_at(target)] if target is not None and math.isfinite(target) else []
    y_end, y_whole = _axes(courses, rows, "nats per token" if case.task in IN_NATS else "loss")
    x = {"exponentformat": "SI"}
    x_end = Axis(cost, {**x, **_entered(courses, y_end)})
    x_whole = Axis(cost, {**x, "rangemode": "tozero"})
    return [
        grid([Panel("", traces, shapes)], x_axis, y_axis, columns=1, height_px=360, choice=(name, cost, shown))
        for shown, x_axis, y_axis in zip(RANGES, (x_end, x_whole), (y_end, y_whole), strict=True)
    ]


def _entered(courses: Mapping[str, Course], y: Axis) -> Spec:
    """The range of the cost axis from where the first arm in colour comes into sight."""
    top = y.options.get("range", (0.0, math.inf))[1]
    top = 10**top if y.options.get("type") == "log" else top
    seen = [cost for arm, found in courses.items() if _mark(arm) != OTHER for cost, loss in found if loss <= top]
    last = max((cost for found in courses.values() for cost, _ in found), default=0.0)
    if not seen:
        return {"rangemode": "tozero"}
    return {"range": [_short(max(0.0, min(seen) - 0.05 * last)), _short(1.04 * last)]}


def _course(points: Iterable[RacePoint], at: Callable[[RacePoint | RaceRun], float]) -> Course:
    """Mean cost and mean loss at every step where all seeds of the arm have a finite reading."""
    steps: dict[int, list[tuple[float, float]]] = defaultdict(list)
    seeds = set()
    for point in points:
        seeds.add(point.seed)
        if point.loss is not None and math.isfinite(point.loss):
            steps[point.step].append((at(point), point.loss))
    whole = [steps[step] for step in sorted(steps) if len(steps[step]) == len(seeds)]
    return [
        (statistics.fmean(cost for cost, _ in found), statistics.fmean(loss for _, loss in found)) for found in whole
    ]


def _traces(row: ArmRow, course: Course, end: float) -> list[Spec]:
    mark = _mark(row.arm)
    grey = mark == OTHER
    name = plain(row.arm)
    hover = f"{name}, n = {row.n}<br>%{{y:.5g}} at %{{x:.4s}}<extra></extra>"
    line = curve(
        [_short(cost) for cost, _ in course],
        [_short(loss) for _, loss in course],
        mark,
        width=0.8 if grey else 2.6 if row.arm == "baseline" else 1.8,
        name=name,
        opacity=0.55 if grey else 1.0,
        hovertemplate=hover,
    )
    if row.final.mean is None or not math.isfinite(row.final.mean):
        return [line]
    dot: Spec = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [_short(end)],
        "y": [_short(row.final.mean)],
        "marker": {"color": mark.color, "symbol": mark.symbol, "size": 5 if grey else 9},
        "opacity": 0.55 if grey else 1.0,
        "hovertemplate": f"{name} at its end, n = {row.final.seeds}<br>%{{y:.5g}} at %{{x:.4s}}<extra></extra>",
    }
    if not grey and row.final.low is not None and row.final.high is not None:
        dot["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [_short(max(0.0, row.final.high - row.final.mean))],
            "arrayminus": [_short(max(0.0, row.final.mean - row.final.low))],
            "thickness": 1.2,
            "width": 4,
            "color": mark.color,
        }
    return [line, dot]


def _axes(courses: Mapping[str, Course], rows: Sequence[ArmRow], unit: str) -> tuple[Axis, Axis]:
    """The loss axis of the end and of the whole run."""
    base = courses.get("baseline") or next((course for course in courses.values() if course), [])
    finals = [row.final.mean for row in rows if row.final.mean is not None and math.isfinite(row.final.mean)]
    losses = [loss for _, loss in base]
    if not losses or not finals:
        return Axis(unit), Axis(unit)
    low, top = min(*finals, *losses), max(losses)
    options: Spec = {}
    if low > 0 and top / low > DECADES:
        options = {"type": "log", "exponentformat": "power", "dtick": 1}
    # From two fifths of the baseline's way on, where the arms part; what diverged stays outside.
    late = [loss for _, loss in base[2 * len(base) // 5 :]]
    return Axis(unit, {**options, "range": _room(low, max(late), bool(options))}), Axis(
        unit, {**options, "range": _room(low, max(losses), bool(options))}
    )


def _room(low: float, high: float, logarithmic: bool) -> list[float]:
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return [low - margin, high + margin]


def _short(value: float) -> float:
    # Six digits are more than a screen shows; they halve the size of the page's data.
    return float(f"{value:.6g}")
