"""The commands `bench ...`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leapverify.cli.arguments import (
    Device,
    ExecutorName,
    Minutes,
    Workers,
    given,
    parse_names,
    parse_numbers,
    parse_seeds,
    say,
)
from leapverify.io.untrusted.escape import inert

bench = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Every predictor on recorded studies, side by side."
)


@bench.command()
def predictors(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Finished run folders that kept all snapshots.")
    ],
    names: Annotated[
        str | None, typer.Option("--predictors", help="Such as linear,lawa-5 or all,taylor-2; all unless given.")
    ] = None,
    horizons: Annotated[str | None, typer.Option(help="Such as 5,10,25; the study's unless given.")] = None,
    persist_every: Annotated[
        int, typer.Option("--persist-every", metavar="N", help="Train on from gains at every N-th checkpoint.")
    ] = 1,
    seeds: Annotated[str | None, typer.Option(help="Such as 42-43; the study's unless given.")] = None,
    nino: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the published NiNo checkpoints lie.")] = None,
    device: Device = "auto",
    minutes: Minutes = None,
    executor: ExecutorName = None,
    workers: Workers = None,
) -> None:
    """Verify every predictor at every checkpoint: acceptance, gain, cost, and what is left of the gain."""
    from leapverify.config.overrides import load_config
    from leapverify.runs import execution
    from leapverify.study.run import deadline_of, minutes_until

    deadline = deadline_of(load_config(folders[0] / "config.yaml"), minutes)
    options = {
        "predictors": given(names, parse_names, "--predictors"),
        "horizons": given(horizons, parse_numbers, "--horizons"),
        "persist_every": persist_every,
        "seeds": given(seeds, parse_seeds),
        "nino": nino,
        "device": device,
        "execution": execution(executor, workers),
    }
    for folder in folders:
        _bench(folder, {**options, "minutes": minutes_until(deadline)})


def _bench(folder: Path, options: dict[str, Any]) -> None:
    from rich.console import Console

    from leapverify.bench.run import bench_predictors
    from leapverify.cli.progress import view
    from leapverify.config.overrides import load_config

    config, console = load_config(folder / "config.yaml"), Console(stderr=True)
    with view(console, tuple(options["seeds"] or config.seeds), config.training.steps) as shown:
        choice = bench_predictors(folder, watcher=shown.update, **options)
    for name, why in choice.left_out.items():
        console.print(inert(f"left out: {name} ({why})"), markup=False, highlight=False, soft_wrap=True)
    table = folder / "tables" / "bench-leaderboard.md"
    if table.is_file():
        say(f"leaderboard: {table}")
    say(f"report: {folder / 'report.html'}")


@bench.command()
def leaderboard(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Benched run folders, such as one of each task.")
    ],
    out: Annotated[Path, typer.Option(help="The Markdown file to write.")],
    races: Annotated[
        list[Path] | None, typer.Option("--race", metavar="DIR", help="A race with --predictors; may be repeated.")
    ] = None,
) -> None:
    """One table of all tasks, and what became of each published claim."""
    from leapverify.io.storage import write_text
    from leapverify.report.bench.leaderboard import combine

    write_text(out, combine(folders, races or []))
    say(f"leaderboard: {out}")
