"""One thing that is wrong with a run folder, or worth knowing, and what to do about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Tell: TypeAlias = Callable[[str, int, int], None]
"""Is told what is looked at, and how many bytes of how many have been read."""


@dataclass(frozen=True)
class AuditIssue:
    """One line of an audit."""

    path: str
    """What it is about, as seen from the folder that was asked about."""
    check: str
    """hash | manifest | leftover | schema | gap | duplicate | nonfinite | clock | lineage | heldout | config | done."""
    text: str
    """What is wrong."""
    remedy: str = ""
    """What to do."""
    problem: bool = True
    """False: nothing is wrong, but it bears on what could be checked."""

    def __str__(self) -> str:
        """One line."""
        return f"{self.path}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")

    def below(self, folder: str) -> AuditIssue:
        """The same, seen from a folder further up."""
        return dataclasses.replace(self, path=f"{folder}/{self.path}")

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)


def quiet(what: str, read_bytes: int, all_bytes: int) -> None:
    """Tell nobody."""
    del what, read_bytes, all_bytes


def remedy_for(name: str, run: Path) -> str:
    """What brings back a file of a run folder.

    Args:
        name: the file, as seen from the run folder.
        run: the run folder.
    """
    first, _, rest = name.partition("/")
    done, report = run / "done.json", f"leapverify report {run} writes it again"
    for begin, remedy in (
        ("tables/ladder", "delete it and its .json and give the study command with --ladder again"),
        ("tables/findings", "give the findings command again"),
        ("tables/", report),
        ("figures/", report),
        ("report.html", report),
        ("manifest.json", report),
        ("bench/", "delete it and its .json and give the bench command again"),
        ("race/", "delete it and its .json, if it has one, and give the race command again"),
        ("config.yaml", "put back a copy, or give the same study command again, which knows what it began with"),
        ("done.json", "give the same study command again"),
    ):
        if name.startswith(begin):
            return remedy
    again = f"{done} and give the same study command again"
    return f"put back a copy, or delete {run / first} and {again}" if rest else f"delete it and {again}"
