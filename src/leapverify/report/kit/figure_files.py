"""Figures as files: a plotly specification and a page of each, on light paper."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from leapverify.analysis.vocabulary import CRITERIA
from leapverify.io.storage import write_text
from leapverify.io.untrusted.escape import inert_json
from leapverify.report.kit.panels import Figure, FigureView, Spec
from leapverify.report.kit.theme import LIGHT, plain, resolved


def write_figures(figures: Mapping[str, Figure], folder: Path) -> None:
    """Write the figures as the page first shows them, as NAME.json (a plotly specification) and NAME.html.

    A figure with a switch between criteria is written once for each, as NAME-CRITERION; the other switches stay at
    their first choice. The pages share the one plotly.min.js that lies beside them.
    """
    from plotly.io import to_html
    from plotly.offline import get_plotlyjs

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "plotly.min.js", get_plotlyjs())
    for figure in figures.values():
        for name, view in _chosen(figure).items():
            text = inert_json(json.dumps(file_spec(figure, view), allow_nan=False))
            write_text(folder / f"{name}.json", text + "\n")
            page = to_html(
                json.loads(text), include_plotlyjs="directory", config={"displaylogo": False}, validate=False
            )
            write_text(folder / f"{name}.html", page)


def file_spec(figure: Figure, view: FigureView) -> Spec:
    """One view as a complete plotly specification on light paper, with a title."""
    layout = dict(view.layout)
    margin = dict(layout["margin"])
    margin["t"] += 44
    title = {
        "text": " · ".join([figure.title, *map(plain, view.choice)]),
        "x": 0.01,
        "xanchor": "left",
        "y": 0.98,
        "yanchor": "top",
    }
    layout |= {"margin": margin, "height": layout["height"] + 44, "title": {**title, "font": {"size": 16}}}
    return resolved({"data": list(view.data), "layout": layout}, LIGHT)


def _chosen(figure: Figure) -> dict[str, FigureView]:
    """File name -> view: the first, and one for each criterion."""
    firsts = {label: choices[0] for label, choices in figure.controls.items()}
    switch = next((label for label, choices in figure.controls.items() if tuple(choices) == CRITERIA), None)
    if switch is None:
        return {figure.name: figure.views[0]} if figure.views else {}
    at = {view.choice: view for view in figure.views}
    wanted = {name: tuple({**firsts, switch: name}.values()) for name in CRITERIA}
    return {f"{figure.name}-{name}": at[choice] for name, choice in wanted.items()}
