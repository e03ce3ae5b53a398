"""The figure of the cascades: loss along the links, beside hold and beside the run itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from leapverify.analysis.study.cascades import HOLD, NO_HOLD, LinkStart, difference, hold_losses, over_starts, start_of
from leapverify.analysis.wording import counted
from leapverify.io.records import CascadeLink
from leapverify.report.kit.panels import Axis, Figure, LegendKey, Panel, Spec, grid
from leapverify.report.kit.table import ends_text
from leapverify.report.kit.theme import series_mark
from leapverify.report.kit.traces import Point, with_marks
from leapverify.report.kit.words import words
from leapverify.report.study.analysis import Analysis

LINES = (
    "cascade",
    "hold: the same without prediction (trained)",
    "the run itself after as many real steps",
    "the run itself at the step claimed",
)
"""What is drawn along the links, in the order of the marks."""


def cascades(analysis: Analysis) -> Figure:
    """Loss along the links of each cascade, one state per predictor."""
    rows, say = analysis.run.cascades, words("study").say
    if not rows:
        why = "no cascade was run: cascades start from stable checkpoints, or were switched off"
        return words("study").empty("cascades", why)
    names = [name for name in dict.fromkeys(row.predictor for row in rows) if name != HOLD] or [HOLD]
    shapes = sorted({(row.kind, row.depth, row.horizon) for row in rows})
    hold, views = hold_losses(rows), []
    for name in names:
        panels = []
        for kind, depth, horizon in shapes:
            chosen = [r for r in rows if (r.predictor, r.kind, r.depth, r.horizon) == (name, kind, depth, horizon)]
            if chosen:
                panels.append(Panel(f"{kind}, {depth} × {horizon}", _links(chosen, kind, hold)))
        y, links = Axis("loss change", {"tickformat": ".3~g"}), Axis("link", {"dtick": 2})
        views.append(grid(panels, links, y, columns=3, height_px=150, choice=(name,)))
    trained = ""
    if any(row.kind == "trained" for row in rows):
        control = say("cascades", "with_hold" if hold else "without_hold", no_hold=NO_HOLD)
        trained = say("cascades", "trained") + control
    return words("study").figure(
        "cascades",
        views,
        controls={"predictor": names} if len(names) > 1 else {},
        legend=[LegendKey(line, series_mark(index)) for index, line in enumerate(LINES) if hold or index != 1],
        trained=trained,
        starts=len({(row.seed, row.step) for row in rows}),
        seeds=counted(len({row.seed for row in rows}), "seed"),
    )


def _links(rows: Sequence[CascadeLink], kind: str, hold: Mapping[LinkStart, float]) -> list[Spec]:
    series: list[tuple[int, str, Callable[[CascadeLink], float | None]]] = [
        (0, "cascade", lambda row: row.loss),
        (2, "run after as many real steps", lambda row: row.loss_same_real_steps),
        (3, "run at the step claimed", lambda row: row.loss_same_effective_step),
    ]
    if hold and kind == "trained":
        series.insert(1, (1, "hold", lambda row: hold.get(start_of(row))))
    traces = []
    for index, label, loss in series:
        points = []
        for link in sorted({row.link for row in rows}):
            here = [row for row in rows if row.link == link]
            found = over_starts(here, lambda row, loss=loss: difference(loss(row), row.loss_start))  # type: ignore[misc]
            if found.mean is None:
                continue
            lost = len(here) - found.n
            said = f"{label}, {kind}, link {link}<br>{found.mean:+.4g}, n = {found.n} starts, seeds: {found.seeds}"
            said += f", {lost} without" if lost else ""
            said += _beside(here, hold) if index == 0 and kind == "trained" else ""
            # Only the cascade has its interval drawn; the lines beside it are paired with it start by start.
            low, high = (found.low, found.high) if index == 0 else (None, None)
            points.append(Point(link, found.mean, low, high, said))
        traces.append(with_marks(points, series_mark(index), label))
    return traces


def _beside(rows: Sequence[CascadeLink], hold: Mapping[LinkStart, float]) -> str:
    found = over_starts(rows, lambda row: difference(row.loss, hold.get(start_of(row))))
    if found.mean is None:
        return ""
    ends = ends_text(found.low, found.high, "+.4g")
    return f"<br>against hold {found.mean:+.4g}" + (f" (95 % {ends})" if ends else "")
