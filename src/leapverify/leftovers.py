"""What a killed writer leaves behind: files that never took their place."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

from leapverify.storage import remove

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}|\.tmp[0-9A-Za-z]{6}")
"""Names of temporary files: those of `replace_file`, and those of safetensors' own way of replacing a file."""
_STEP = re.compile(r"step-\d{6,}\.safetensors")


def sweep_leftovers(folder: Path, *, below: bool = True) -> list[Path]:
    """Delete what a killed writer left in a folder; call it while no other process writes there.

    Temporary files that never took their place, and `step-NNNNNN.safetensors` without a mark. Links are not followed.

    Args:
        folder: need not be there.
        below: in all folders below it, too.

    Returns: the deleted files.

    Raises:
        NotWritten: the folder cannot be written.
    """
    walk = os.walk(folder) if below else itertools.islice(os.walk(folder), 1)
    found = [Path(place, name) for place, _, names in walk for name in names]
    unfinished = [path for path in found if is_leftover(path)]
    for path in unfinished:
        remove(path)
    return unfinished


def is_leftover(path: Path) -> bool:
    """Whether a file is what a killed writer left; links are not."""
    if path.is_symlink() or not path.is_file():
        return False
    unmarked = _STEP.fullmatch(path.name) and not path.with_suffix(".json").exists()
    return bool(unmarked or _TEMPORARY.fullmatch(path.name))
