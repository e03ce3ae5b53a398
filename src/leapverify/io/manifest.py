"""The manifest of a run folder (path, bytes and sha256 of every file), and what killed writers left there."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leapverify.errors import Damaged
from leapverify.io.storage import read_json, read_mark, remove, sha256_of, write_json

NAME = "manifest.json"
DONE = "done.json"
LAST = (NAME, DONE)
"""Written after the files that a manifest lists; each carries the sha256 of its own content."""
MARKED = (".safetensors", ".parquet")
FORMAT = 1
RACE = "race"
"""The folder of a run folder that has a config.yaml and is no run folder of its own."""


class Manifest:
    """The manifest of a folder that is about to be written to; it is gone until `write`.

    A file that nobody replaced in between keeps the line that it had: one that was damaged before is not declared
    whole. A folder without a manifest was never finished, or a command in it was stopped.

    Args:
        folder: a run folder, held by this process alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            before = read_manifest(folder) or {}
        except Damaged:
            before = {}
        self._before = {name: (line, _identity(folder / name)) for name, line in before.items()}
        remove(folder / NAME)

    def write(self) -> None:
        """List every file that is there now.

        Raises:
            NotWritten: the disk is full, or the folder cannot be written.
        """
        lines = {name: self._line(name) for name in files_of(self._folder)}
        write_json(self._folder / NAME, {"format": FORMAT, "files": lines})

    def _line(self, name: str) -> dict[str, Any]:
        path = self._folder / name
        line, identity = self._before.get(name, (None, None))
        if line is not None and identity == _identity(path):
            return line
        return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def files_of(folder: Path) -> list[str]:
    """The files that a manifest of the folder lists: all but hidden ones, `LAST`, and those of run folders below it."""
    found = []
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = [name for name in folders if not name.startswith(".") and not is_run(here / name)]
        found += [(here / name).relative_to(folder).as_posix() for name in names if not name.startswith(".")]
    return sorted(name for name in found if name not in LAST)


def is_run(folder: Path) -> bool:
    """Whether a folder below a run folder is a run folder itself, such as a variant's of a ladder."""
    return folder.name != RACE and os.path.isfile(folder / "config.yaml")  # False, too, where nobody may look


def runs_below(folder: Path) -> Iterator[Path]:
    """The run folders that lie below a folder, in order of their names."""
    for place, folders, _ in os.walk(folder):
        folders.sort()
        for name in [name for name in folders if is_run(Path(place, name))]:
            folders.remove(name)
            yield Path(place, name)


def read_manifest(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Path -> bytes and sha256; None where the folder has no manifest.

    Raises:
        Damaged: the manifest is not what was written.
    """
    path = folder / NAME
    if not path.exists():
        return None
    found = read_json(path)
    files = found.get("files") if isinstance(found, dict) else None
    if not isinstance(files, dict) or found.get("format") != FORMAT or not all(map(_is_line, files.values())):
        raise Damaged(f"{path} is no manifest of this version: leapverify report writes it anew")
    return files


def _is_line(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("bytes"), int) and isinstance(value.get("sha256"), str)


def _sha256(path: Path) -> str:
    """Of large files, from the mark that was written with them: it is read in a moment, and names what was meant."""
    if path.suffix in MARKED:
        try:
            mark = read_mark(path)
        except Damaged:
            return sha256_of(path)
        if "previous" not in mark:  # otherwise a kill may have left the file before
            return str(mark["sha256"])
    return sha256_of(path)


def _identity(path: Path) -> tuple[int, int] | None:
    """Another one as soon as the file has been replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


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
