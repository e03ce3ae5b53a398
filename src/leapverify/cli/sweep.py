"""The command `sweep`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leapverify.cli.arguments import Device, ExecutorName, Workers, parse_numbers, watched

if TYPE_CHECKING:
    from leapverify.runs.progress import Watcher


def sweep(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A finished run folder.")],
    predictors: Annotated[str | None, typer.Option(help="Such as linear,adam.")] = None,
    horizons: Annotated[str | None, typer.Option(help="Such as 5,10,25.")] = None,
    device: Device = "auto",
    executor: ExecutorName = None,
    workers: Workers = None,
) -> None:
    """Sweep a study again from its snapshots, with other predictors or horizons if wanted."""
    from leapverify.config.overrides import load_config
    from leapverify.runs import execution
    from leapverify.study.resweep import sweep_study

    names = [name.strip() for name in predictors.split(",")] if predictors else None
    ahead = parse_numbers(horizons, "--horizons") if horizons else None
    config = load_config(folder / "config.yaml")
    by = execution(executor, workers)

    def work(watcher: Watcher) -> None:
        sweep_study(folder, predictors=names, horizons=ahead, device=device, watcher=watcher, execution=by)

    watched(config, folder, work)
