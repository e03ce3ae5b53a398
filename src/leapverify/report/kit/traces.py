"""What is drawn in a panel: curves, bands, marks with their intervals, maps, and lines at a value."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from leapverify.report.kit.panels import Spec
from leapverify.report.kit.theme import Mark


class Point(NamedTuple):
    """A mark with the ends of its interval, and what is said where the reader points at it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    text: str = ""


def line_at(y: float, *, dash: str = "dash", color: str = "@muted") -> Spec:
    """A horizontal line through a panel."""
    return {
        "type": "line",
        "x0": 0,
        "x1": 1,
        "y0": y,
        "y1": y,
        "layer": "below",
        "line": {"color": color, "width": 1.2, "dash": dash},
    }


def band(x: Sequence[float], low: Sequence[float | None], high: Sequence[float | None], color: str = "@band") -> Spec:
    """A filled band between two curves; x values where either end is missing are left out."""
    known = [(a, b, c) for a, b, c in zip(x, low, high, strict=True) if b is not None and c is not None]
    there, back = [a for a, _, _ in known], [a for a, _, _ in reversed(known)]
    return {
        "type": "scatter",
        "x": there + back,
        "y": [b for _, b, _ in known] + [c for _, _, c in reversed(known)],
        "fill": "toself",
        "fillcolor": color,
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
    }


def curve(x: Sequence[float], y: Sequence[float | None], mark: Mark, *, width: float = 2, **options: Any) -> Spec:
    """A line with the mark's dash and colour; gaps where a value is missing or not finite."""
    values = [value if value is not None and math.isfinite(value) else None for value in y]
    line = {"color": mark.color, "width": width, "dash": mark.dash}
    return {"type": "scatter", "mode": "lines", "x": list(x), "y": values, "line": line, **options}


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """The mean of the values that exist and are finite; None without any."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known else None


def with_marks(points: Sequence[Point], mark: Mark, name: str, width: float = 2) -> Spec:
    """A line with marks, and interval bars where both ends exist."""
    trace = curve([point.x for point in points], [point.y for point in points], mark, width=width, name=name)
    trace |= {"mode": "lines+markers", "marker": {"color": mark.color, "symbol": mark.symbol, "size": 6}}
    trace |= {"text": [point.text for point in points], "hovertemplate": "%{text}<extra></extra>"}
    if any(point.low is not None for point in points):
        below = [0.0 if point.low is None else max(0.0, point.y - point.low) for point in points]
        above = [0.0 if point.high is None else max(0.0, point.high - point.y) for point in points]
        trace["error_y"] = error_bars(below, above, mark.color, width=2)
    return trace


def error_bars(below: Sequence[float], above: Sequence[float], color: str, width: int) -> Spec:
    """Bars of unequal length on both sides of each mark."""
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "thickness": 1.2,
        "width": width,
        "color": color,
    }


def markers(x: Sequence[float], y: Sequence[float | None], mark: Mark, name: str, size: int, **options: Any) -> Spec:
    """Marks without a line."""
    marker = {"color": mark.color, "symbol": mark.symbol, "size": size}
    return {"type": "scatter", "mode": "markers", "name": name, "x": x, "y": y, "marker": marker, **options}


def heat_map(
    x: Sequence[str], y: Sequence[str], z: Sequence[Sequence[float | None]], size: int, **options: Any
) -> Spec:
    """A map of fields with a gap between them and a number in each; nothing is said of an empty one."""
    return {"type": "heatmap", "x": x, "y": y, "z": z, "xgap": 2, "ygap": 2, "textfont": {"size": size},
            "hoverongaps": False, **options}  # fmt: skip


def horizontal_bars(x: Sequence[float], y: Sequence[str], text: Sequence[str], **options: Any) -> Spec:
    """Bars that lie, each with a text."""
    return {"type": "bar", "orientation": "h", "x": x, "y": y, "text": text, **options}
