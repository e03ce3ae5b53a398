"""The command `findings`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leapverify.cli.arguments import (
    Device,
    ExecutorName,
    Minutes,
    Steps,
    Words,
    Workers,
    given,
    parse_names,
    parse_seeds,
    say,
    split_words,
)


def findings(
    words: Words = None,
    seeds: Annotated[
        str | None, typer.Option(help="Of the base study, such as 42-49; the variations take the first four.")
    ] = None,
    steps: Steps = None,
    out: Annotated[Path | None, typer.Option(help="The folder; runs/findings-PRESET unless given.")] = None,
    only: Annotated[
        str | None, typer.Option(help="Run these variations only, such as base,constant; all are judged.")
    ] = None,
    skip: Annotated[str | None, typer.Option(help="Run all but these.")] = None,
    doc: Annotated[Path | None, typer.Option(help="A Markdown file whose marked part is to hold the results.")] = None,
    device: Device = "auto",
    minutes: Minutes = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run; run nothing.")] = False,
    executor: ExecutorName = None,
    workers: Workers = None,
) -> None:
    """Which of the paper's findings stand without its artefacts? Run a study's variations and judge each claim."""
    from leapverify.claims.run import plan
    from leapverify.claims.variations import as_lines
    from leapverify.config.overrides import parse_settings
    from leapverify.config.presets import preset
    from leapverify.runs import execution

    name, pairs = split_words(words)
    names = [given(value, parse_names, option) for option, value in (("--only", only), ("--skip", skip))]
    planned = plan(preset(name, steps), parse_settings(pairs), given(seeds, parse_seeds), *names)
    if dry_run:
        say("\n".join(as_lines(planned.wanted)))
        return
    _findings(planned, out or Path("runs") / f"findings-{name}", device, minutes, doc, execution(executor, workers))


def _findings(planned: Any, folder: Path, device: str, minutes: float | None, doc: Path | None, execution: Any) -> None:
    from rich.console import Console

    from leapverify.claims.run import run_findings
    from leapverify.cli.progress import view
    from leapverify.runs import StudyError

    base = planned.every[0].config
    with view(Console(stderr=True), base.seeds, base.training.steps) as shown:
        options = {"device": device, "minutes": minutes, "doc": doc, "execution": execution}
        found = run_findings(planned, folder, watcher=shown.update, **options)
    say("\n".join(found.verdicts))
    say(f"findings: {folder / 'tables' / 'findings.md'}")
    if found.failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.failed.items())
        raise StudyError(f"the findings are written without what could not be run ({reasons})")
