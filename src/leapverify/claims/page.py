"""The findings as Markdown, CSV and JSON, and put into a document between two marks."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leapverify.analysis.wording import counted
from leapverify.claims.rule import ClaimResult, Quantity
from leapverify.io.storage import write_json, write_text
from leapverify.io.untrusted import escape as words

BEGIN, END = "<!-- findings: begin, written by `leapverify findings --doc` -->", "<!-- findings: end -->"


def verdict_lines(found: Sequence[ClaimResult]) -> list[str]:
    """One line a claim, for the terminal."""
    width = max(len(finding.key) for finding in found)
    decided = [(finding, _decided(finding)) for finding in found]
    return [f"{each.key:{width}}  {each.verdict:12}  {by.name}: {by.text}" for each, by in decided]


def _decided(finding: ClaimResult) -> Quantity:
    """What decided: of a claim that falls the first condition that was missed, else the first of all."""
    decided = [bar.quantity for bar in finding.bars if bar.verdict == finding.verdict]
    return (decided or list(finding.measured))[0]


def as_markdown(found: Sequence[ClaimResult], about: Iterable[str] = (), level: int = 2) -> str:
    """The table of verdicts first, then every claim with its rule and its numbers.

    Args:
        found: the findings.
        about: paragraphs on what was run, after the table.
        level: of the headings of claims.
    """
    lines = ["| claim | verdict here | measured (95 % over seeds) | decisive control | n |", "|---|---|---|---|---|"]
    for finding in found:
        decided = _decided(finding)
        interval = f" ({decided.interval})" if decided.interval else ""
        measured = f"{decided.name}: {decided.here}{interval}"
        lines.append(_row(finding.claim, f"**{finding.verdict}**", measured, finding.control, decided.behind))
    lines += ["", multiplicity(found)]
    for paragraph in about:
        lines += ["", paragraph]
    for number, finding in enumerate(found, 1):
        lines += ["", f"{'#' * level} {number}. {finding.key}: {finding.verdict}", "", *_claim(finding)]
    return "\n".join(lines) + "\n"


def _claim(finding: ClaimResult) -> list[str]:
    lines = [f"**Claim** ({finding.source}). {finding.claim}", "", f"**Rule.** {finding.rule}", ""]
    lines += [f"**Control.** {_sentence(finding.control)}", ""]
    lines += ["| measured | here | 95 % over seeds | n | the claim needs |", "|---|---|---|---|---|"]
    for bar in finding.bars:
        lines.append(_line(bar.quantity, f"{bar.side}: **{bar.reading}**"))
    lines += [_line(quantity, "") for quantity in finding.beside]
    if finding.explains:
        lines += ["", f"**What explains the difference.** {_sentence(finding.explains)}"]
    if finding.notes:
        lines += ["", " ".join(finding.notes)]
    return lines


def _line(quantity: Quantity, needed: str) -> str:
    return _row(quantity.name, quantity.here, quantity.interval, quantity.behind, needed)


def _row(*cells: str) -> str:
    return "| " + " | ".join(map(words.markdown, cells)) + " |"


def multiplicity(found: Sequence[ClaimResult]) -> str:
    """How many intervals and p-values stand behind the verdicts."""
    decided = sum(finding.verdict != "not decided" for finding in found)
    intervals = sum(len(finding.bars) for finding in found)
    return (
        f"{counted(len(found), 'claim')}, {decided} decided. The rules rest on {intervals} intervals over seeds at "
        "95 %, not corrected for their number: of twenty such intervals one misses by chance. The verdict that rests "
        "on p-values (nothing-better) has Holm's. Shown is the first condition that made the verdict; the others are "
        "below, and so are rows without a need, which are there to be read and decide nothing."
    )


def as_csv(found: Sequence[ClaimResult]) -> str:
    """Long form: one quantity a line, deciding ones with their line and reading."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["key", "verdict", "role", "quantity", "value", "low", "high", "seeds", "n", "of", "side", "line",
                     "reading", "reason"])  # fmt: skip
    for finding in found:
        rows: list[tuple[str, Quantity, list[Any]]] = [
            ("decides", bar.quantity, ["above" if bar.above else "below", bar.line, bar.reading])
            for bar in finding.bars
        ]
        rows += [("beside", quantity, ["", "", ""]) for quantity in finding.beside]
        for role, quantity, tail in rows:
            e = quantity.found
            numbers = ["" if value is None else value for value in (e.value, e.low, e.high)]
            row = [finding.key, finding.verdict, role, quantity.name, *numbers, e.seeds, e.n, quantity.of, *tail]
            writer.writerow(map(words.field, [*row, e.reason or ""]))
    return out.getvalue()


def as_tree(found: Sequence[ClaimResult], missing: Mapping[str, str]) -> dict[str, Any]:
    """Everything as plain data."""
    trees = [json.loads(json.dumps(dataclasses.asdict(finding))) for finding in found]
    for tree, finding in zip(trees, found, strict=True):
        for plain, bar in zip(tree["bars"], finding.bars, strict=True):
            plain |= {"condition": bar.condition, "verdict": bar.verdict}
    return {"findings": trees, "missing": dict(missing)}


def write_findings(
    found: Sequence[ClaimResult],
    folder: Path,
    *,
    about: Sequence[str],
    missing: Mapping[str, str],
    doc: Path | None = None,
) -> Path:
    """Write findings.md, .csv and .json, and the marked part of a document if one is given.

    Returns: the Markdown file.

    Raises:
        ValueError: the document is missing or has no marks.
    """
    if doc is not None:
        require_marks(doc)
    write_text(folder / "findings.csv", as_csv(found))
    write_json(folder / "findings.json", as_tree(found, missing))
    path = folder / "findings.md"
    write_text(path, "# The findings\n\n" + as_markdown(found, about))
    if doc is not None:
        write_text(doc, filled(doc.read_text(encoding="utf-8"), as_markdown(found, about, level=3)))
    return path


def require_marks(doc: Path) -> None:
    """Refuse a document that has no place for results, before hours are spent on them.

    Raises:
        ValueError: it is missing, or its marks are.
    """
    if not doc.is_file():
        raise ValueError(f"--doc {doc} is no file: name a Markdown file that holds the two marks of the findings")
    text = doc.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"--doc {doc} has no single place for results: write {BEGIN} and below it {END} into it")


def filled(text: str, results: str) -> str:
    """The document with the part between its marks replaced."""
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    return f"{head}{BEGIN}\n\n{results}\n{END}{tail}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
