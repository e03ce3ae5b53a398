"""The command line: parse, call, print.

Exit codes: 0 done, 1 failure, 2 wrong use, 3 its time was over, 143 told to stop by SIGTERM.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer
from rich.console import Console

from leapverify.cli.arguments import InertLines
from leapverify.cli.audit import verify
from leapverify.cli.bench import bench
from leapverify.cli.capacity import doctor, presets
from leapverify.cli.claims import findings
from leapverify.cli.nowcast import nowcast
from leapverify.cli.predictors import predictors
from leapverify.cli.race import race
from leapverify.cli.ranks import end_of_rank, require_one_process
from leapverify.cli.report import report
from leapverify.cli.study import study
from leapverify.cli.sweep import sweep
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

for command in (study, findings, predictors, verify, race, sweep, report, presets, doctor):
    app.command()(command)
app.add_typer(nowcast, name="nowcast")
app.add_typer(bench, name="bench")


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
    from leapverify.errors import Damaged, NotWritten
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
