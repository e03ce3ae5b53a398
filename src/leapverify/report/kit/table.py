"""A table that knows its cells twice: as a reader sees them, and as numbers in a CSV file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leapverify.analysis.over_seeds import OverSeeds
from leapverify.io.storage import write_text
from leapverify.io.untrusted import escape as words

Raw = float | int | str | bool | None
SPREAD = (
    "Mean ± sample standard deviation over seeds; below it n and the 95 % interval over seeds (bootstrap; with fewer "
    "than eight seeds widened by Student's t, so that it may be wider than the range of the seeds)."
)
"""What is said of every cell that `spread` makes."""


@dataclass(frozen=True)
class Cell:
    """One cell: what is shown, a smaller second line, and the CSV fields it stands for."""

    text: str
    below: str = ""
    kind: str = ""
    """heading | number | why (an empty cell's reason) | none (the paper has no such number) | wide (a sentence) |
    nothing: text."""
    fields: Mapping[str, Raw] = field(default_factory=dict)

    @property
    def parts(self) -> list[str]:
        """The second line, in two where one would make the column wide."""
        return self.below.split("; ") if len(self.below) > 34 else [self.below] if self.below else []

    @property
    def heading(self) -> bool:
        """Whether the cell names its row."""
        return self.kind == "heading"


@dataclass(frozen=True)
class Column:
    """One column: what stands above it, how it is aligned, and how a row's cell is made."""

    label: str
    number: bool = True
    cell: Callable[[Any], Cell] = Cell
    """Of a row; by default the row is the text."""


@dataclass(frozen=True)
class Line:
    """One row; `first` starts a group."""

    cells: Sequence[Cell]
    first: bool = False


@dataclass(frozen=True)
class Table:
    """One table of the report."""

    name: str
    heading: str
    note: str
    columns: Sequence[Column]
    rows: Sequence[Line]

    def to_csv(self) -> str:
        """The table as CSV, numbers in full precision; an empty field has its reason in the field `..._why`.

        A text that a spreadsheet would take for a formula has a ' before it.
        """
        names = list(dict.fromkeys(name for row in self.rows for cell in row.cells for name in cell.fields))
        out = io.StringIO()
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writerow({name: words.field(name) for name in names})
        for row in self.rows:
            writer.writerow({name: words.field(value) for cell in row.cells for name, value in cell.fields.items()})
        return out.getvalue()

    def to_markdown(self) -> str:
        """The table as Markdown, as a reader sees it on the page."""
        lines = [f"# {words.markdown(self.heading)}", "", words.markdown(self.note), ""]
        lines.append("| " + " | ".join(words.markdown(column.label) for column in self.columns) + " |")
        lines.append("|" + "|".join("---:" if column.number else "---" for column in self.columns) + "|")
        for row in self.rows:
            shown = (f"{cell.text} ({cell.below})" if cell.below else cell.text for cell in row.cells)
            lines.append("| " + " | ".join(words.markdown(text) for text in shown) + " |")
        return "\n".join(lines) + "\n"


def table(
    name: str, heading: str, note: str, columns: Sequence[Column], rows: Iterable[Any], *, keys: int = 1
) -> Table:
    """A table from its columns and rows.

    Args:
        name: of its files.
        heading: above it.
        note: what its numbers mean.
        columns: each with the function that makes its cell from a row.
        rows: any objects that the columns can read.
        keys: a row whose first so many cells differ from the row above starts a group; 0 for no groups.
    """
    return Table(
        name, heading, note, columns, grouped([[column.cell(row) for column in columns] for row in rows], keys)
    )


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Write every table as NAME.csv and NAME.md."""
    for each in tables:
        write_text(folder / f"{each.name}.csv", each.to_csv())
        write_text(folder / f"{each.name}.md", each.to_markdown())


def grouped(rows: Sequence[Sequence[Cell]], keys: int = 1) -> list[Line]:
    """Rows whose first cells differ from the row above start a group."""
    lines: list[Line] = []
    before: list[str] = []
    for cells in rows:
        now = [cell.text for cell in cells[:keys]]
        lines.append(Line(cells, bool(before) and now != before))
        before = now
    return lines


def name(key: str, value: str | int) -> Cell:
    """A cell that names its row."""
    return Cell(str(value), kind="heading", fields={key: value})


def text(key: str, value: str) -> Cell:
    """A text."""
    return Cell(value, fields={key: value})


def number(key: str, value: float | int | None, form: str = ".4g", why: str = "") -> Cell:
    """One number, or the reason why there is none."""
    if value is None or not math.isfinite(value):
        reason = why or ("not finite" if value is not None else "not recorded")
        return Cell(reason, kind="why", fields={key: None, f"{key}_why": reason})
    return Cell(format(value, form), kind="number", fields={key: value, f"{key}_why": None})


def spread(key: str, found: OverSeeds, form: str = ".4g", *, scale: float = 1.0, why: str = "", of: str = "") -> Cell:
    """Mean ± sample standard deviation over seeds, with the interval and n, or the reason why there is none.

    Args:
        key: prefix of the CSV fields `_mean`, `_std`, `_low`, `_high`, `_n`, `_seeds`, `_why`.
        found: the summary over seeds.
        form: number format.
        scale: 100 for per cent.
        why: the reason for an empty cell, if a better one is known than the summary's own.
        of: what n counts; without it only seeds are shown.
    """
    reason = (why or found.reason) if found.mean is None else found.reason if found.std is None else None
    raw: dict[str, Raw] = {
        f"{key}_{part}": scaled(getattr(found, part), scale) for part in ("mean", "std", "low", "high")
    }
    raw |= {f"{key}_n": found.n, f"{key}_seeds": found.seeds, f"{key}_why": reason}
    if found.mean is None:
        return Cell(reason or "no value", kind="why", fields=raw)
    count = f"n = {found.n} {of} in " if of else ""
    seeds = "1 seed, no spread" if found.seeds == 1 else f"{found.seeds} seeds"
    ends = ends_text(found.low, found.high, form, scale)
    shown = f"{found.mean * scale:{form}}"
    if found.std is not None:
        shown += f" ± {found.std * scale:{form.removeprefix('+')}}"
    return Cell(shown, f"{count}{seeds}" + (f"; 95 % {ends}" if ends else ""), "number", raw)


def ends_text(low: float | None, high: float | None, form: str, scale: float = 1.0) -> str:
    """'0.12 to 0.40', or nothing where there is no interval."""
    return "" if low is None or high is None else f"{low * scale:{form}} to {high * scale:{form}}"


def scaled(value: float | None, scale: float) -> float | None:
    """A value in another unit; None stays None."""
    return None if value is None else value * scale
