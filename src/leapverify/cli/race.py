"""The command `race`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leapverify.cli.arguments import (
    ExecutorName,
    Words,
    Workers,
    configured,
    given,
    parse_names,
    parse_seeds,
    say,
    split_words,
)
from leapverify.cli.ranks import on_ranks
from leapverify.runs.launched import silent

if TYPE_CHECKING:
    from leapverify.runs import Execution


def race(
    words: Words = None,
    tasks: Annotated[str | None, typer.Option(help="Of pretrain,finetune,lora,convex,noise; all unless given.")] = None,
    optimizers: Annotated[str | None, typer.Option(help="Of adamw,muon,sgd; all unless given.")] = None,
    arms: Annotated[
        str | None, typer.Option(help="Such as leap-auto,wsd; the baseline and what they need are added.")
    ] = None,
    predictors: Annotated[
        str | None, typer.Option(help="Such as rre,nino-mlp:PATH, or all: two arms each, verified and unconditional.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Such as 0-7 or 0,2; paired, every arm runs on each.")] = None,
    data: Annotated[str | None, typer.Option(help="Text of fine-tuning: stdlib-prose, text:PATH ...")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/race-PRESET unless given.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting; see race/config.yaml of any race."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run and what it costs; run nothing.")
    ] = False,
    executor: ExecutorName = None,
    workers: Workers = None,
) -> None:
    """Does leaping pay here? Tune, then train every arm on paired seeds; given again, it goes on where it was."""
    from leapverify.race.dry_run import dry_run as dry_run_of
    from leapverify.race.presets import preset

    name, pairs = split_words(words)
    listed = {"tasks": tasks, "optimizers": optimizers, "arms": arms, "predictors": predictors}
    options = {key: given(value, parse_names, f"--{key}") for key, value in listed.items()}
    options |= {"seeds": given(seeds, parse_seeds), "data": data, "device": device}
    config = configured(preset(name), [*pairs, *(settings or [])], options)
    if dry_run:
        if not silent():
            say("\n".join(dry_run_of(config)))
        return
    folder = out or Path("runs") / f"race-{name}"

    def drive(execution: Execution) -> None:
        from rich.console import Console

        from leapverify.cli.progress import race_view
        from leapverify.race.race import run_race

        with race_view(Console(stderr=True)) as shown:
            found = run_race(config, folder, watcher=shown.update, execution=execution)
        say("\n".join(found.verdicts))
        say(f"report: {folder / 'report.html'}")

    on_ranks(drive, executor, workers)
