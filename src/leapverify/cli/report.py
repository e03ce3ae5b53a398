"""The command `report`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leapverify.cli.arguments import say


def report(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")]) -> None:
    """Build tables, figures and report again from the records alone."""
    from leapverify.config.overrides import load_config
    from leapverify.report import build_report
    from leapverify.runs.driver import rewriting

    if not (folder / "race" / "config.yaml").is_file():
        load_config(folder / "config.yaml")
    with rewriting(folder):
        page = build_report(folder)
    say(f"report: {page}")
