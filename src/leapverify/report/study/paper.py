"""The paper's own numbers, beside which the ten tables stand."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from types import MappingProxyType
from typing import Any

from leapverify.report.kit.table import Cell, Column

PAPER: Mapping[str, Any] = MappingProxyType(
    json.loads(resources.files("leapverify.report").joinpath("paper.json").read_text(encoding="utf-8"))
)
MODELS: Mapping[str, str] = MappingProxyType(PAPER["models"])
"""The paper's models: key to name."""
PREDICTORS = {"linear": "linear", "quadratic-paper": "quadratic", "momentum": "momentum"}
"""The predictors that the paper has, by its own names; its quadratic is eq. 5 as printed."""
NOT_IN_PAPER = "not in paper"


def paper_value(table: str, *keys: str | int) -> Any:
    """One number of the paper (or a [mean, std] pair), or None where it prints none."""
    node: Any = PAPER[table]
    for key in keys:
        if not isinstance(node, Mapping) or key not in node:
            return None
        node = node[key]
    return node


def paper_columns(cell: Callable[[str, str, Any], Cell]) -> Sequence[Column]:
    """One column for each of the paper's models.

    Args:
        cell: of the model, the prefix of its CSV fields, and the row.
    """
    return [
        Column(f"paper, {label}", cell=functools.partial(cell, model, _prefix(model)))
        for model, label in MODELS.items()
    ]


def printed(table: str, keys: Callable[[Any], Sequence[str]]) -> Sequence[Column]:
    """The columns of what the paper prints in one of its tables.

    Args:
        table: its name in paper.json.
        keys: where a row's number stands under each model.
    """
    return paper_columns(lambda model, key, row: paper_cell(key, paper_value(table, model, *keys(row))))


def paper_cell(key: str, value: object) -> Cell:
    """The paper's number, or its [mean, std] pair; where it prints none, that."""
    if value is None:
        return none_printed(key, "mean", "std")
    mean, std = value if isinstance(value, (list, tuple)) else (value, None)
    numbers = (float(mean), None if std is None else float(std))
    shown = " ± ".join(f"{number:g}" for number in numbers if number is not None)
    return Cell(shown, kind="number", fields=dict(zip((f"{key}_mean", f"{key}_std"), numbers, strict=True)))


def none_printed(key: str, *fields: str) -> Cell:
    """The cell of what the paper does not have."""
    return Cell(NOT_IN_PAPER, kind="none", fields=dict.fromkeys(f"{key}_{field}" for field in fields))


def _prefix(model: str) -> str:
    return "paper_" + "".join(sign if sign.isalnum() else "_" for sign in model)
