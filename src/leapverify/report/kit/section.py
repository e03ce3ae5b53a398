"""What a page is made of: its head, its sections, and the facts that every page ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leapverify.report.kit.panels import Figure
from leapverify.report.kit.run import flat, lookup
from leapverify.report.kit.table import Cell, Column, Table, table


@dataclass(frozen=True)
class SummaryLine:
    """One sentence or two on one question."""

    topic: str
    text: str


@dataclass(frozen=True)
class Headline:
    """One number worth a glance, at the head of a page."""

    label: str
    value: str
    about: str


@dataclass(frozen=True)
class PageSection:
    """One section of the page."""

    id: str
    short: str
    heading: str
    note: str = ""
    findings: Sequence[SummaryLine] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()
    folded_label: str = "Numbers"
    code: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """Everything that one page shows."""

    title: str
    identity: str
    heading: str
    """Of the summary."""
    tiles: Sequence[Headline]
    findings: Sequence[SummaryLine]
    sections: Sequence[PageSection]
    colophon: str
    figures: Mapping[str, Figure] = field(default_factory=dict)


def facts(name: str, heading: str, tree: Mapping[str, Any]) -> Table:
    """A nested mapping as a table of names and values."""
    columns = [
        Column("name", False, lambda item: Cell(item[0], kind="heading")),
        Column("value", False, lambda item: Cell(item[1])),
    ]
    return table(name, heading, "", columns, flat(tree).items(), keys=0)


def machine(environment: Mapping[str, Any], *folded: Table) -> PageSection:
    """Hardware and versions, with the configuration folded under them."""
    return PageSection(
        "machine",
        "Machine",
        "Hardware, versions and configuration",
        tables=[facts("environment", "Environment", environment)],
        folded=folded,
        folded_label="The whole configuration",
    )


def commands(made: str, folder: str) -> PageSection:
    """The command that made the records, and the one that makes the page again."""
    return PageSection(
        "command",
        "Command",
        "The command",
        "The first made the records, the second makes this page again from them.",
        code=[made, f"leapverify report {folder or '.'}"],
    )


def hardware(environment: Mapping[str, Any]) -> str:
    """The machine, in a few words."""
    gpu, cores = lookup(environment, "gpu.name"), environment.get("cores")
    if gpu:
        return str(gpu)
    text = str(environment.get("cpu") or environment.get("device") or "hardware not recorded")
    return f"{text}, {cores} cores" if cores else text


def colophon(environment: Mapping[str, Any]) -> str:
    """The last line of a page."""
    version = lookup(environment, "versions.leapverify") or "unknown version"
    return f"leapverify {version}. The paper: arXiv 2602.19580. This page loads nothing from any network."
