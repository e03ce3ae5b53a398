"""Colours and marks of the figures: Okabe-Ito, one palette for light and one for dark paper.

Figure specifications name colours by role (`@stable`); the page resolves them for the reader's colour scheme, the
figure files for light paper. A regime never differs by colour alone: it also has a letter, a symbol and a pattern.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PALETTE: Mapping[str, tuple[str, str]] = {
    "@ink": ("#1c2733", "#e6ebf0"),
    "@muted": ("#5b6875", "#9aa7b4"),
    "@grid": ("#e3e7ec", "#2c3743"),
    "@paper": ("#ffffff", "#171e26"),
    "@band": ("rgba(91,104,117,0.18)", "rgba(154,167,180,0.22)"),
    "@band0": ("rgba(0,114,178,0.20)", "rgba(86,180,233,0.24)"),
    "@chaotic": ("#c14a00", "#f0803c"),
    "@transition": ("#b87800", "#f0c54a"),
    "@stable": ("#0072b2", "#56b4e9"),
    "@unknown": ("#8a949e", "#7d8a97"),
    "@c0": ("#0072b2", "#56b4e9"),
    "@c1": ("#c14a00", "#f0803c"),
    "@c2": ("#00805e", "#2fc79b"),
    "@c3": ("#a84f86", "#d98cba"),
    "@c4": ("#b87800", "#f0c54a"),
    "@c5": ("#2b8cc4", "#8fd0f5"),
    "@c6": ("#5b6875", "#9aa7b4"),
}
"""Each role's colour on light and on dark paper."""
LIGHT: Mapping[str, str] = {role: light for role, (light, _) in PALETTE.items()}
DARK: Mapping[str, str] = {role: dark for role, (_, dark) in PALETTE.items()}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Mark:
    """How one series is drawn everywhere."""

    color: str
    symbol: str
    dash: str
    pattern: str = ""
    letter: str = ""


REGIME_MARKS: Mapping[str, Mark] = {
    "chaotic": Mark("@chaotic", "x", "dot", "x", "C"),
    "transition": Mark("@transition", "square", "dash", "/", "T"),
    "stable": Mark("@stable", "circle", "solid", "", "S"),
    "unknown": Mark("@unknown", "diamond-open", "solid", ".", "?"),
}
SERIES_MARKS: tuple[Mark, ...] = (
    Mark("@c0", "circle", "solid"),
    Mark("@c1", "square", "dash"),
    Mark("@c2", "diamond", "dot"),
    Mark("@c3", "triangle-up", "dashdot"),
    Mark("@c4", "x", "longdash"),
    Mark("@c5", "cross", "solid"),
    Mark("@c6", "triangle-down", "dash"),
)


def series_mark(index: int) -> Mark:
    """The mark of the index-th series; after the seventh they come round again."""
    return SERIES_MARKS[index % len(SERIES_MARKS)]


def resolved(spec: Any, palette: Mapping[str, str]) -> Any:
    """A figure specification with the colour roles replaced by the palette's colours."""
    if isinstance(spec, str):
        return palette.get(spec, spec) if spec.startswith("@") else spec
    if isinstance(spec, Mapping):
        return {key: resolved(value, palette) for key, value in spec.items()}
    if isinstance(spec, (list, tuple)):
        return [resolved(item, palette) for item in spec]
    return spec


def plain(text: object) -> str:
    """Text from the records made inert for plotly, which reads a subset of HTML in labels."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
