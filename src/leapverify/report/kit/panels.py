"""What a figure is: a title, a caption, and a plain plotly specification for each choice of the reader.

`grid` lays small panels over shared axes, `chart` gives one plot axes of its own; both for a wide page and a phone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
class LegendKey:
    """One entry of a legend, drawn by the page."""

    label: str
    mark: Mark
    filled: bool = False


@dataclass(frozen=True)
class FigureView:
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
    views: Sequence[FigureView] = ()
    controls: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What a reader can switch: the control's label and its choices."""
    legend: Sequence[LegendKey] = ()
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
) -> FigureView:
    """Small multiples over shared axes, laid out once for a wide page and once for a phone."""
    data: list[Spec] = []
    for index, panel in enumerate(panels):
        axes = {"xaxis": f"x{index + 1}" if index else "x", "yaxis": f"y{index + 1}" if index else "y"}
        data.extend({"showlegend": False, **trace, **axes} for trace in panel.traces)
    wide = _layout(panels, x, y, min(columns, len(panels)), height_px, WIDE_PX, shared_y)
    narrow = _layout(panels, x, y, min(narrow_columns, len(panels)), height_px, NARROW_PX, shared_y)
    return FigureView(choice, data, wide, narrow)


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
            title = f"<b>{plain(panel.title)}</b>"
            layout["annotations"].append(_annotation(title, left, top, "left", "@ink", yshift=3))
        if panel.note:
            x_middle, y_middle = left + width / 2, top - height_px / plot_px / 2
            layout["annotations"].append(_annotation(plain(panel.note), x_middle, y_middle, "center", "@muted"))
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


def chart(
    height_px: int, margin: Spec, x: Spec, y: Spec, *, ink: str = "@ink", y_size: int = 11, **options: Any
) -> Spec:
    """The layout of a single plot whose axes are its own.

    Args:
        height_px: of the whole figure.
        margin: l, r, t and b, pixels.
        x, y: options of the axes.
        ink: colour of the y axis' ticks.
        y_size: of their text.
        options: anything else of the layout.
    """
    x_axis = {"fixedrange": True, "tickfont": {"size": 11, "color": "@muted"}, **x}
    y_axis = {"fixedrange": True, "tickfont": {"size": y_size, "color": ink}, **y}
    return {**base_layout(height_px), "margin": margin, "xaxis": x_axis, "yaxis": y_axis, **options}


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


def _annotation(text: str, x: float, y: float, align: str, color: str, **options: Any) -> Spec:
    return {
        "text": text,
        "x": x,
        "y": y,
        "xref": "paper",
        "yref": "paper",
        "xanchor": align,
        "yanchor": "bottom",
        **options,
        "showarrow": False,
        "font": {"size": 11, "color": color},
    }
