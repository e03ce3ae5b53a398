"""The drawings of a legend's entries, as SVG in the page's own colours."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from leapverify.report.kit.panels import LegendKey

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


def swatch(key: LegendKey) -> Markup:
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
