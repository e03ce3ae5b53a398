"""A column for each kind of value: what stands above it, its key in the CSV, where a row keeps it, its format."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from leapverify.report.kit import table as t
from leapverify.report.kit.cells import estimate as estimate_cell
from leapverify.report.kit.table import Cell, Column

Get = str | Callable[[Any], Any]
"""Where a row keeps a value: the name of an attribute (dotted if need be), or a function of the row."""
Why = str | Callable[[Any], str]
"""The reason for an empty cell: one for all rows, or a function of the row."""


ITSELF: Get = lambda row: row  # noqa: E731
"""The row is the value."""


def getter(get: Get) -> Callable[[Any], Any]:
    """The function that reads a value from a row."""
    return operator.attrgetter(get) if isinstance(get, str) else get


def _reason(why: Why, row: Any) -> str:
    return why if isinstance(why, str) else why(row)


def key(label: str, get: Get = "", field: str = "") -> Column:
    """What names the row; `field` and `get` are the label where they are not given."""
    read = getter(get or label)
    return Column(label, False, lambda row: t.name(field or label, read(row)))


def text(label: str, field: str, get: Get = "") -> Column:
    """A text; `get` is the field's name where it is not given."""
    read = getter(get or field)
    return Column(label, False, lambda row: t.text(field, read(row)))


def number(label: str, field: str, get: Get = "", form: str = "d", *, scale: float = 0.0, why: Why = "") -> Column:
    """A number; by default a whole one of the field's name. A scale of 100 makes it per cent."""
    read = getter(get or field)

    def cell(row: Any) -> Cell:
        value = read(row)
        return t.number(field, t.scaled(value, scale) if scale else value, form, _reason(why, row))

    return Column(label, cell=cell)


def spread(
    label: str, field: str, get: Get = "", form: str = ".4g", *, scale: float = 1.0, why: Why = "", of: str = ""
) -> Column:
    """Mean ± standard deviation over seeds, interval and n below it: see `table.spread`."""
    read = getter(get or field)
    return Column(label, cell=lambda row: t.spread(field, read(row), form, scale=scale, why=_reason(why, row), of=of))


def estimate(label: str, field: str, get: Get = "", form: str = ".2f", *, scale: float = 1.0) -> Column:
    """The mean over seeds and its interval: see `cells.estimate`."""
    read = getter(get or field)
    return Column(label, cell=lambda row: estimate_cell(field, read(row), form, scale=scale))
