"""The command line: parse, call, print.

Exit codes: 0 done, 1 failure, 2 wrong use, 3 its time was over, 143 told to stop by SIGTERM.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from leapverify.cli.arguments import (
    ExecutorName,
    InertLines,
    Workers,
    parse_names,
    parse_numbers,
    parse_seeds,
    say,
    split_words,
)
from leapverify.cli.audit import verify
from leapverify.cli.bench import bench
from leapverify.cli.claims import findings
from leapverify.cli.nowcast import nowcast
from leapverify.cli.predictors import predictors
from leapverify.cli.ranks import end_of_rank, on_ranks, require_one_process
from leapverify.io.untrusted.escape import inert
from leapverify.runs.launched import silent
from leapverify.runs.stopping import EXIT_CODE as TERMINATED
from leapverify.runs.stopping import Terminated, asked, stops_on_sigterm

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The instrument for training trajectories: regimes, weight prediction, verified leaps.",
)

OUT_OF_USE, FAILED, PAUSED, INTERRUPTED = 2, 1, 3, 130

RESUMABLE = frozenset({"study", "race", "sweep", "bench", "findings"})
"""Commands that stop at their next checkpoint when SIGTERM comes."""

Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@app.command()
def study(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="PRESET KEY=VALUE", help="A preset (tiny unless given), then settings."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Such as 42-46 or 42,44.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; the warm-up keeps its share.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/PRESET unless given.")] = None,
    device: Device = "auto",
    data: Annotated[str | None, typer.Option(help="stdlib, text:PATH or wikitext-103.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="bytes, or a Hugging Face name or folder.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting; see config.yaml of any run.")
    ] = None,
    lyapunov: Annotated[bool, typer.Option("--lyapunov", help="Record the local Lyapunov exponent.")] = False,
    ladder: Annotated[bool, typer.Option("--ladder", help="Also with each switch of the paper's artefacts.")] = False,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after so many, with exit code 3, where the same command goes on.")
    ] = None,
    executor: ExecutorName = None,
    workers: Workers = None,
) -> None:
    """Train several seeds by the paper's protocol and write a report; given again, it goes on where it was."""
    from leapverify.config.overrides import parse_settings, with_settings
    from leapverify.config.presets import preset as preset_named
    from leapverify.errors import ConfigError
    from leapverify.runs import execution

    name, pairs = split_words(words)
    changes = parse_settings([*pairs, *(settings or [])])
    changes |= {"seeds": parse_seeds(seeds)} if seeds is not None else {}
    changes |= {"data.source": data} if data is not None else {}
    changes |= {"data.tokenizer": tokenizer} if tokenizer is not None else {}
    changes |= {"observe.lyapunov": True} if lyapunov else {}
    if steps is not None and steps < 1:
        raise ConfigError(f"--steps {steps} is not a positive number of steps: give for instance --steps 1000")
    config = with_settings(preset_named(name, steps), changes)
    folder = out or Path("runs") / name
    asked = executor is not None or workers is not None

    def drive(by: Any) -> None:
        _watched(config, folder, lambda watcher: _study(config, folder, device, watcher, ladder, minutes, by))

    on_ranks(drive, execution(executor, workers), asked)


app.command()(findings)
app.command()(predictors)
app.command()(verify)
app.add_typer(nowcast, name="nowcast")
app.add_typer(bench, name="bench")


@app.command()
def race(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="PRESET KEY=VALUE", help="A preset (tiny unless given), then settings."),
    ] = None,
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
    from leapverify.config.overrides import parse_settings
    from leapverify.race.dry_run import dry_run as dry_run_of
    from leapverify.race.overrides import with_settings
    from leapverify.race.presets import preset as preset_named
    from leapverify.runs import execution

    name, pairs = split_words(words)
    changes = parse_settings([*pairs, *(settings or [])])
    listed = {"tasks": tasks, "optimizers": optimizers, "arms": arms, "predictors": predictors}
    changes |= {key: parse_names(value, f"--{key}") for key, value in listed.items() if value is not None}
    changes |= {"seeds": parse_seeds(seeds)} if seeds is not None else {}
    changes |= {key: value for key, value in {"data": data, "device": device}.items() if value is not None}
    config = with_settings(preset_named(name), changes)
    if dry_run:
        if not silent():
            say("\n".join(dry_run_of(config)))
        return
    folder = out or Path("runs") / f"race-{name}"
    asked = executor is not None or workers is not None
    on_ranks(lambda by: _race(config, folder, by), execution(executor, workers), asked)


@app.command()
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
    config, by = load_config(folder / "config.yaml"), execution(executor, workers)

    def work(watcher: Any) -> None:
        sweep_study(folder, predictors=names, horizons=ahead, device=device, watcher=watcher, execution=by)

    _watched(config, folder, work)


@app.command()
def report(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")]) -> None:
    """Build tables, figures and report again from the records alone."""
    from leapverify.config.overrides import load_config
    from leapverify.io.manifest import Manifest
    from leapverify.report import build_report
    from leapverify.runs import exclusive

    if not (folder / "race" / "config.yaml").is_file():
        load_config(folder / "config.yaml")
    with exclusive(folder, patience_s=5.0):
        manifest = Manifest(folder)
        page = build_report(folder)
        manifest.write()
    say(f"report: {page}")


GpuGb = Annotated[float | None, typer.Option("--gpu-gb", help="GPU memory, 10^9 bytes; this machine's unless given.")]
HostGb = Annotated[float | None, typer.Option("--host-gb", help="Host memory; this machine's unless given.")]


@app.command()
def presets(gpu_gb: GpuGb = None, host_gb: HostGb = None) -> None:
    """List the presets: what each costs, and in which precision it fits this machine or another."""
    from leapverify.capacity.cost import overview
    from leapverify.capacity.machine import machine

    wide = Console()
    wide.width = max(wide.width, 110)
    for sheet in overview(machine(gpu_gb, host_gb)):
        table = Table(box=None, pad_edge=False)
        for number, heading in enumerate(sheet.headings):
            table.add_column(heading, no_wrap=True, justify="left" if number < sheet.left else "right")
        for row in sheet.rows:
            table.add_row(*row)
        wide.print(sheet.title, style="bold", highlight=False)
        wide.print(table)
        wide.print(sheet.note, "", sep="\n", highlight=False)


@app.command()
def doctor(
    folder: Annotated[Path, typer.Option("--out", help="Where studies would be written.")] = Path("runs"),
    gpu_gb: GpuGb = None,
    host_gb: HostGb = None,
) -> None:
    """Say what this machine can run, and why not the rest."""
    from leapverify.capacity.doctor import examine
    from leapverify.capacity.machine import machine

    for finding in examine(folder, machine(gpu_gb, host_gb)):
        say(f"{'ok' if finding.fine else 'no'}  {finding.subject:32}{finding.text}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every failure is one line on standard error."""
    words = sys.argv[1:] if arguments is None else arguments
    with stops_on_sigterm() if words and words[0] in RESUMABLE else contextlib.nullcontext():
        code = _guarded(lambda: _called(list(words)))
        end_of_rank(code)
        sys.exit(code)


def _called(words: list[str]) -> Any:
    require_one_process(words)
    return app(args=words, prog_name="leapverify", standalone_mode=False)


def _guarded(call: Callable[[], Any]) -> int:
    try:
        _log()
        # typer turns an interrupt into the exit code 130, which it returns here.
        code = call()
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except typer.Exit as leave:
        return leave.exit_code
    except (Exception, KeyboardInterrupt, Terminated) as error:
        if os.environ.get("LEAPVERIFY_DEBUG"):
            raise
        message, code = _explained(error)
        line = inert(f"leapverify: {' '.join(message.split())}")
        if not silent():
            Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
        return code


def _explained(error: BaseException) -> tuple[str, int]:
    """One sentence for an error, and the exit code."""
    from leapverify.io.storage import Damaged, NotWritten
    from leapverify.runs import Paused, failure_message

    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "stopped; give the same command again to go on", FAILED
    if isinstance(error, Terminated):
        return "ended at once by SIGTERM; give the same command again to go on from the last checkpoint", TERMINATED
    # Usage errors have no public class that all versions of typer share, but they all can format themselves.
    if (describe := getattr(error, "format_message", None)) is not None:
        return f"{describe().rstrip('.')}: leapverify --help shows how it is used", OUT_OF_USE
    if isinstance(error, Paused):
        return str(error), TERMINATED if asked() else PAUSED
    wrong_use = isinstance(error, ValueError) and not isinstance(error, Damaged | NotWritten)
    return failure_message(error), OUT_OF_USE if wrong_use else FAILED


def _log() -> None:
    level = os.environ.get("LEAPVERIFY_LOG", "ERROR").upper()
    if level not in logging.getLevelNamesMapping():
        raise ValueError(f"LEAPVERIFY_LOG is {level!r}: set it to one of ERROR, WARNING, INFO, DEBUG, or not at all")
    logging.basicConfig(level=level, format="%(message)s")
    for handler in logging.getLogger().handlers:
        handler.setFormatter(InertLines("%(message)s"))


def _study(
    config: Any, folder: Path, device: str, watcher: Any, ladder: bool, minutes: float | None, execution: Any
) -> None:
    from leapverify.study.ladder import run_ladder
    from leapverify.study.run import run_study

    run = run_ladder if ladder else run_study
    run(config, folder, device=device, watcher=watcher, minutes=minutes, execution=execution)


def _watched(config: Any, folder: Path, work: Callable[[Any], None]) -> None:
    from leapverify.cli.progress import view

    console = Console(stderr=True)
    with view(console, config.seeds, config.training.steps) as shown:
        work(shown.update)
    say(f"report: {folder / 'report.html'}")


def _race(config: Any, folder: Path, execution: Any) -> None:
    from leapverify.cli.progress import race_view
    from leapverify.race.race import run_race

    with race_view(Console(stderr=True)) as shown:
        found = run_race(config, folder, watcher=shown.update, execution=execution)
    say("\n".join(found.verdicts))
    say(f"report: {folder / 'report.html'}")
