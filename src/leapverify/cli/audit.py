"""The command `verify`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from leapverify.cli.arguments import say

PROBLEMS = 1


def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or a file that nowcast train has written.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of sentences.")] = False,
) -> None:
    """Say what is wrong with a run folder and what to do: exit code 1, or 0 where nothing is. Nothing is written."""
    from rich.console import Console

    from leapverify.audit import audit

    console = Console(stderr=True)
    with console.status("looking") as status:

        def tell(what: str, read_bytes: int, all_bytes: int) -> None:
            share = f", {read_bytes / 1e9:.1f} of {all_bytes / 1e9:.1f} GB" if all_bytes > 1e8 else ""
            status.update(f"{what}{share}")

        found = audit(folder, tell)
    problems = [each for each in found if each.problem]
    for each in sorted(found, key=lambda finding: not finding.problem):
        say(json.dumps(each.to_dict()) if as_json else f"{'wrong' if each.problem else 'note '}  {each}")
    if not as_json:
        say(f"{folder}: " + (f"{len(problems)} problem{'s' * (len(problems) > 1)}" if problems else "nothing is wrong"))
    if problems:
        raise typer.Exit(PROBLEMS)
