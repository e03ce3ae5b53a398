"""The command `study`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapverify.cli.arguments import (
    Device,
    ExecutorName,
    Minutes,
    Steps,
    Words,
    Workers,
    configured,
    given,
    parse_seeds,
    split_words,
    watched,
)
from leapverify.cli.ranks import on_ranks

if TYPE_CHECKING:
    from leapverify.runs import Execution


def study(
    words: Words = None,
    seeds: Annotated[str | None, typer.Option(help="Such as 42-46 or 42,44.")] = None,
    steps: Steps = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/PRESET unless given.")] = None,
    device: Device = "auto",
    data: Annotated[str | None, typer.Option(help="stdlib, text:PATH or wikitext-103.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="bytes, or a Hugging Face name or folder.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting; see config.yaml of any run.")
    ] = None,
    lyapunov: Annotated[bool, typer.Option("--lyapunov", help="Record the local Lyapunov exponent.")] = False,
    ladder: Annotated[bool, typer.Option("--ladder", help="Also with each switch of the paper's artefacts.")] = False,
    minutes: Minutes = None,
    executor: ExecutorName = None,
    workers: Workers = None,
) -> None:
    """Train several seeds by the paper's protocol and write a report; given again, it goes on where it was."""
    from leapverify.config.presets import preset
    from leapverify.errors import ConfigError

    name, pairs = split_words(words)
    options = {
        "seeds": given(seeds, parse_seeds),
        "data.source": data,
        "data.tokenizer": tokenizer,
        "observe.lyapunov": lyapunov or None,
    }
    if steps is not None and steps < 1:
        raise ConfigError(f"--steps {steps} is not a positive number of steps: give for instance --steps 1000")
    config = configured(preset(name, steps), [*pairs, *(settings or [])], options)
    folder = out or Path("runs") / name

    def drive(execution: Execution) -> None:
        from leapverify.study.ladder import run_ladder
        from leapverify.study.run import run_study

        run = run_ladder if ladder else run_study
        how: dict[str, Any] = {"device": device, "minutes": minutes, "execution": execution}
        watched(config, folder, lambda watcher: run(config, folder, watcher=watcher, **how))

    on_ranks(drive, executor, workers)
