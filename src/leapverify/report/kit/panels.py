"""Figures as plain plotly specifications, and small multiples with shared axes for a wide and a narrow page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from leapverify.report.kit.theme import FONT, Mark, plain

Spec = dict[str, Any]
MARGIN = {"l": 56, "r": 14, "t": 34, "b": 48}
WIDE_PX, NARROW_PX = 980, 340
"""Plot widths for which the gaps between panels are laid out; other widths scale them."""


@dataclass(frozen=True)
class Panel:
    """One small chart: a title and plotly traces without axis names."""

    title: str
    traces: Sequence[Spec]
    shapes: Sequence[Spec] = ()
    note: str = ""
    """What stands in the middle of a panel that has nothing to draw."""


@dataclass(frozen=True)
class Key:
    """One entry of a legend, drawn by the page."""

    label: str
    mark: Mark
    filled: bool = False


@dataclass(frozen=True)
class View:
    """One state of a figure: what its controls say, and what is then drawn."""

    choice: tuple[str, ...]
    data: Sequence[Spec]
    layout: Spec
    narrow: Spec


@dataclass(frozen=True)
class Figure:
    """One figure of the report; without views it is empty and `why` says the reason."""

    name: str
    title: str
    caption: str
    views: Sequence[View] = ()
    controls: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What a reader can switch: the control's label and its choices."""
    legend: Sequence[Key] = ()
    why: str = ""


@dataclass(frozen=True)
class Axis:
    """What the panels of a figure share on one axis."""

    title: str
    options: Spec = field(default_factory=dict)


def grid(
    panels: Sequence[Panel],
    x: Axis,
    y: Axis,
    *,
    columns: int,
    narrow_columns: int = 1,
    height_px: int = 190,
    shared_y: bool = True,
    choice: tuple[str, ...] = (),
) -> View:
    """Small multiples over shared axes, laid out once for a wide page and once for a phone."""
    data: list[Spec] = []
    for index, panel in enumerate(panels):
        axes = {"xaxis": f"x{index + 1}" if index else "x", "yaxis": f"y{index + 1}" if index else "y"}
        data.extend({"showlegend": False, **trace, **axes} for trace in panel.traces)
    wide = _layout(panels, x, y, min(columns, len(panels)), height_px, WIDE_PX, shared_y)
    narrow = _layout(panels, x, y, min(narrow_columns, len(panels)), height_px, NARROW_PX, shared_y)
    return View(choice, data, wide, narrow)


def _layout(
    panels: Sequence[Panel], x: Axis, y: Axis, columns: int, height_px: int, width_px: int, shared_y: bool
) -> Spec:
    rows = math.ceil(len(panels) / columns)
    gap_y_px = 40 if len(panels) > 1 else 0
    plot_px = rows * height_px + (rows - 1) * gap_y_px
    # Two neighbours' end ticks must not meet; five panels in a row show fewer ticks and need the width.
    gap_x = (18 if columns > 2 else 34) / width_px
    width = (1 - gap_x * (columns - 1)) / columns
    top_px = MARGIN["t"] if any(panel.title for panel in panels) else 12
    layout = base_layout(plot_px + top_px + MARGIN["b"])
    layout["margin"]["t"] = top_px
    shapes: list[Spec] = []
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        suffix = str(index + 1) if index else ""
        left = column * (width + gap_x)
        top = 1 - row * (height_px + gap_y_px) / plot_px
        bottom_most = index + columns >= len(panels)
        layout[f"xaxis{suffix}"] = _axis(x, bottom_most) | {"domain": [left, min(1.0, left + width)]}
        layout[f"yaxis{suffix}"] = _axis(y, column == 0) | {"domain": [max(0.0, top - height_px / plot_px), top]}
        layout[f"xaxis{suffix}"]["anchor"] = f"y{suffix}"
        layout[f"yaxis{suffix}"]["anchor"] = f"x{suffix}"
        if index:
            layout[f"xaxis{suffix}"]["matches"] = "x"
        if index and shared_y:
            layout[f"yaxis{suffix}"]["matches"] = "y"
        if not bottom_most:
            layout[f"xaxis{suffix}"]["title"] = {"text": ""}
        if column:
            layout[f"yaxis{suffix}"]["title"] = {"text": ""}
        if panel.title:
            layout["annotations"].append(_heading(panel.title, left, top))
        if panel.note:
            layout["annotations"].append(_note(panel.note, left + width / 2, top - height_px / plot_px / 2))
        shapes += [{**shape, "xref": f"x{suffix} domain", "yref": f"y{suffix}"} for shape in panel.shapes]
    layout["shapes"] = shapes
    return layout


def base_layout(height_px: int) -> Spec:
    """What every figure's layout has in common."""
    return {
        "height": height_px,
        "autosize": True,
        "margin": dict(MARGIN),
        "paper_bgcolor": "@paper",
        "plot_bgcolor": "@paper",
        "font": {"family": FONT, "size": 12, "color": "@ink"},
        "hoverlabel": {"font": {"family": FONT, "size": 12}},
        "hovermode": "closest",
        "dragmode": False,
        "showlegend": False,
        "annotations": [],
        "shapes": [],
    }


def axis_title(text: str) -> Spec:
    """An axis title as every figure has it."""
    return {"text": text, "font": {"size": 12, "color": "@muted"}, "standoff": 8}


def _axis(axis: Axis, labelled: bool) -> Spec:
    return {
        "title": axis_title(axis.title),
        "gridcolor": "@grid",
        "linecolor": "@grid",
        "zeroline": False,
        "tickfont": {"size": 11, "color": "@muted"},
        "showticklabels": labelled,
        "fixedrange": True,
        "automargin": False,
        **axis.options,
    }


def _heading(text: str, left: float, top: float) -> Spec:
    return {
        "text": f"<b>{plain(text)}</b>",
        "x": left,
        "y": top,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 3,
        "showarrow": False,
        "font": {"size": 11, "color": "@ink"},
    }


def _note(text: str, x: float, y: float) -> Spec:
    return {
        "text": plain(text),
        "x": x,
        "y": y,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "center",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 11, "color": "@muted"},
    }


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


DASHES = {"solid": "", "dash": "6 4", "dot": "2 3", "dashdot": "6 3 2 3", "longdash": "9 4"}
SYMBOLS = {
    "circle": '<circle cx="15" cy="7" r="3.4" fill="{c}"/>',
    "square": '<rect x="11.8" y="3.8" width="6.4" height="6.4" fill="{c}"/>',
    "diamond": '<path d="M15 2.6 19.4 7 15 11.4 10.6 7z" fill="{c}"/>',
    "diamond-open": '<path d="M15 2.6 19.4 7 15 11.4 10.6 7z" fill="none" stroke="{c}" stroke-width="1.5"/>',
    "triangle-up": '<path d="M15 2.8 19.2 10.4H10.8z" fill="{c}"/>',
    "triangle-down": '<path d="M15 11.2 19.2 3.6H10.8z" fill="{c}"/>',
    "x": '<path d="M11.8 3.8 18.2 10.2M18.2 3.8 11.8 10.2" stroke="{c}" stroke-width="2.4"/>',
    "cross": '<path d="M15 2.8V11.2M10.8 7H19.2" stroke="{c}" stroke-width="2.4"/>',
}
HATCHES = {
    "": "",
    "/": '<path d="M3 14 11 0M11 14 19 0M19 14 27 0" stroke="var(--paper)" stroke-width="1.6" opacity=".6"/>',
    "x": '<path d="M3 14 11 0M11 14 19 0M19 14 27 0M3 0 11 14M11 0 19 14M19 0 27 14" stroke="var(--paper)" '
    'stroke-width="1.4" opacity=".6"/>',
    ".": '<path d="M6 4h2M13 4h2M20 4h2M9 10h2M16 10h2M23 10h2" stroke="var(--paper)" stroke-width="2" opacity=".7"/>',
}


def swatch(key: Key) -> Markup:
    """The drawing of one entry; colours are the page's variables, so that light and dark need no second drawing."""
    color = f"var(--{key.mark.color.removeprefix('@')})"
    if key.filled:
        hatch = HATCHES[key.mark.pattern]
        return Markup(f'<rect x="3" y="0" width="24" height="14" rx="2" fill="{color}"/>{hatch}')
    line = f'<path d="M1 7H29" stroke="{color}" stroke-width="2" stroke-dasharray="{DASHES[key.mark.dash]}"/>'
    return Markup(line + SYMBOLS[key.mark.symbol].format(c=color))


def variables(palette: Mapping[str, str]) -> str:
    """A palette as CSS variables."""
    return " ".join(f"--{name.removeprefix('@')}: {value};" for name, value in palette.items())
