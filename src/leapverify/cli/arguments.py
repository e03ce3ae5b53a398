"""What commands share: options, how their words are read, what runs their tasks, and how they print."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapverify.io.untrusted.escape import inert

if TYPE_CHECKING:
    from leapverify.config.study import StudyConfig
    from leapverify.runs.progress import Watcher

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="PRESET KEY=VALUE", help="A preset (tiny unless given), then settings."),
]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps; the warm-up keeps its share.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Minutes = Annotated[
    float | None, typer.Option(help="Stop after so many, with exit code 3, where the same command goes on.")
]
ExecutorName = Annotated[
    str | None,
    typer.Option("--executor", help="in-process, processes, ray or ray:ADDRESS; what suits this machine unless given."),
]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Tasks at a time, at most.")]

MOST_SEEDS = 1000


def configured(config: Any, pairs: Sequence[str], options: dict[str, Any]) -> Any:
    """A preset with `key=value` texts and then options set, checked as a whole.

    Args:
        config: of a study or of a race.
        pairs: the texts.
        options: key -> value; None: the option was not given.
    """
    from leapverify.config.overrides import parse_settings, with_settings

    given = {key: value for key, value in options.items() if value is not None}
    return with_settings(config, {**parse_settings(pairs), **given})


def given(value: str | None, parse: Callable[..., Any], *option: str) -> Any:
    """The value of an option as `parse` reads it; None where it was not given."""
    return None if value is None else parse(value, *option)


def watched(config: StudyConfig, folder: Path, work: Callable[[Watcher], Any]) -> Any:
    """Do something with a study while its seeds are shown, and say where the report is.

    Returns: what `work` gives.
    """
    from rich.console import Console

    from leapverify.cli.progress import view

    with view(Console(stderr=True), config.seeds, config.training.steps) as shown:
        found = work(shown.update)
    say(f"report: {folder / 'report.html'}")
    return found


def split_words(words: Sequence[str] | None) -> tuple[str, list[str]]:
    """The preset's name (tiny unless given) and the key=value pairs.

    Raises:
        ConfigError: more than one word is no pair.
    """
    from leapverify.errors import ConfigError

    plain = [word for word in words or [] if "=" not in word]
    if len(plain) > 1:
        raise ConfigError(f"{plain[1]!r} is neither a preset nor key=value: give one preset")
    return plain[0] if plain else "tiny", [word for word in words or [] if "=" in word]


def parse_names(text: str, option: str) -> list[str]:
    """`convex,noise` as names.

    Raises:
        ConfigError: an empty one, or one twice.
    """
    from leapverify.errors import ConfigError

    names = [part.strip() for part in text.split(",")]
    if not all(names) or len({*names}) != len(names):
        raise ConfigError(f"{option} {text!r} is no list of different names: write them with commas between")
    return names


def parse_seeds(text: str) -> list[int]:
    """`42-46`, `42,44` or both, as numbers.

    Raises:
        ConfigError: not of that form, an empty range, or a seed twice.
    """
    from leapverify.errors import ConfigError

    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ConfigError(f"--seeds {text!r} is no list of seeds: write for instance 42-46 or 42,44")
        span = range(int(first), int(last if dash else first) + 1)
        if not span:
            raise ConfigError(f"--seeds {text!r} counts downwards: write the smaller seed first")
        if len(found) + len(span) > MOST_SEEDS:
            raise ConfigError(f"--seeds {text!r} are {len(found) + len(span)} seeds or more: name at most {MOST_SEEDS}")
        found.extend(span)
    if len(set(found)) != len(found):
        raise ConfigError(f"--seeds {text!r} names a seed twice: name each once")
    return found


def parse_numbers(text: str, option: str) -> list[int]:
    """`5,10,25` as numbers.

    Raises:
        ConfigError: not positive numbers with commas between them.
    """
    from leapverify.errors import ConfigError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"{option} {text!r} are no positive numbers: write for instance 5,10,25")
    return [int(part) for part in parts]


def say(text: str) -> None:
    """Print a text, in which names may stand that others gave: no control character in it reaches the terminal."""
    print(inert(text))


class InertLines(logging.Formatter):
    """What libraries log, told in the same way."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return inert(super().format(record))
