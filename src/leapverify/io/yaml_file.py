"""Reading YAML files, and `as_written`: what does not fit where it is used is reported as damage of its file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leapverify.errors import Damaged, NotWritten
from leapverify.io.storage import read_sealed
from leapverify.io.untrusted.text import first_line, parse_yaml


def read_yaml(path: Path, remedy: str) -> dict[str, Any]:
    """The mapping in a YAML file of any origin.

    Raises:
        Damaged: it is no YAML within the limits, no mapping, cannot be read, or is not what was written; the message
            ends with the remedy.
        FileNotFoundError: there is no such file.
    """
    try:
        tree = parse_yaml(read_sealed(path, remedy))
    except (Damaged, FileNotFoundError):
        raise
    except (OSError, ValueError) as error:
        raise Damaged(f"{path} is damaged: {_of(error)}; {remedy}") from error
    if not isinstance(tree, dict):
        raise Damaged(f"{path} holds no mapping: {remedy}")
    return tree


def _of(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"it is not YAML (no UTF-8 at byte {error.start})"
    return error.strerror or "it cannot be read" if isinstance(error, OSError) else str(error)


@contextmanager
def as_written(path: Path | str, remedy: str) -> Iterator[None]:
    """A block that uses what a file holds: an error of its values becomes `Damaged`, which names the file.

    Raises:
        Damaged: a value is missing, or of another kind or size than was written.
    """
    try:
        yield
    except (Damaged, NotWritten):
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        told = f"{type(error).__name__}: {first_line(error)}"
        raise Damaged(f"{path} is damaged: it holds something else than was written ({told}); {remedy}") from error
