"""Every file of a run folder against what was noted when it was written: manifest, marks, sums in the files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leapverify.audit.finding import AuditIssue, Tell, quiet, remedy_for
from leapverify.errors import Damaged
from leapverify.io.checksum import SEAL, as_json
from leapverify.io.manifest import DONE, LAST, MARKED, NAME, files_of, is_leftover, is_run, read_manifest
from leapverify.io.storage import PLACE, check_digest, read_json, read_sealed, require_place, sha256_of
from leapverify.train.sharded_folder import MARK as PARTS

TELL_EVERY_S = 0.5


@dataclass
class FileReport:
    """What was found of the files of one run folder."""

    findings: list[AuditIssue] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)
    """FileReport that must not be believed, as seen from the run folder."""

    def add(self, name: str, check: str, text: str, remedy: str) -> None:
        """Note a damaged file."""
        self.damaged.add(name)
        self.findings.append(AuditIssue(name, check, text, remedy))


def check_files(run: Path, tell: Tell = quiet) -> FileReport:
    """Read every file of a run folder once, but for those of run folders below it.

    Args:
        run: the folder; nothing is written.
        tell: is told how far it has come.
    """
    found = FileReport()
    manifest = _manifest(run, found)
    names = files_of(run)
    sizes = {name: _size(run / name) for name in names}
    read, told = 0, 0.0
    for name in names:
        if time.monotonic() - told > TELL_EVERY_S:
            told = time.monotonic()
            tell(name, read, sum(sizes.values()))
        _check(run, name, None if manifest is None else manifest.get(name, {}), found)
        read += sizes[name]
    for name in sorted(set(manifest or ()) - set(names) - found.damaged):
        found.add(name, "manifest", "is missing", remedy_for(name, run))
    for name in LAST:
        if (run / name).exists() and name not in found.damaged:
            _check_sum(run, name, found)
    found.findings += list(_leftovers(run))
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _manifest(run: Path, found: FileReport) -> dict[str, dict[str, Any]] | None:
    try:
        manifest = read_manifest(run)
    except Damaged as error:
        found.add(NAME, "manifest", _without(error, run), remedy_for(NAME, run))
        return None
    study, done = (run / "config.yaml").is_file(), (run / DONE).is_file()
    if manifest is not None:
        if study and not done:
            found.add(DONE, "done", "is missing where everything else is there", remedy_for(DONE, run))
        return manifest
    if _is_old(run):
        text = "there is none, for this folder was written by an earlier version: files without a sha256 of their own "
        text += "are taken as they are"
        remedy = f"leapverify report {run} writes one"
        found.findings.append(AuditIssue(NAME, "manifest", text, remedy, problem=False))
    elif done or not study:
        text = "is missing: it was deleted, or a command in this folder was stopped or is still at work"
        remedy = f"give that command again, or leapverify report {run}"
        found.findings.append(AuditIssue(NAME, "manifest", text, remedy))
    else:
        text = "there is none yet: the study has not finished"
        found.findings.append(AuditIssue(NAME, "manifest", text, remedy_for(DONE, run), problem=False))
    return None


def _is_old(run: Path) -> bool:
    """Whether nothing in the folder carries its own sha256: versions before the manifest wrote it so."""
    for name in ("environment.json", "race/environment.json", "thresholds.json", "tables/findings.json", DONE):
        path = run / name
        if path.is_file():
            return SEAL.encode() not in path.read_bytes()
    return False


def _check(run: Path, name: str, line: dict[str, Any] | None, found: FileReport) -> None:
    """One file against its line in the manifest ({}: it has none; None: there is no manifest), then against itself."""
    path = run / name
    try:
        size, digest = path.stat().st_size, sha256_of(path)
    except OSError as error:
        found.add(name, "hash", f"cannot be read ({error.strerror})", "see to the disk and the permissions")
        return
    if line == {}:
        text = "is not in the manifest: no command that finished here wrote it, and nothing of it is to be believed"
        found.add(name, "manifest", text, "delete it, unless it is yours; then keep it elsewhere")
    elif line is not None and size != line["bytes"]:
        found.add(name, "hash", f"has {size:,} bytes where {line['bytes']:,} were written", remedy_for(name, run))
    elif line is not None and digest != line["sha256"]:
        found.add(name, "hash", "is altered: its sha256 is not that of the manifest", remedy_for(name, run))
    if path.suffix in MARKED:
        if (path.parent / PARTS).is_file():
            _check_part(run, name, digest, found)
        else:
            _check_mark(run, name, digest, found, vouched=(line or {}).get("sha256") == digest)
    else:
        _check_sum(run, name, found)


def _check_mark(run: Path, name: str, digest: str, found: FileReport, *, vouched: bool) -> None:
    """A file against the mark beside it, which has been looked at before: it comes first in the order of names."""
    mark = str(Path(name).with_suffix(".json"))
    try:
        check_digest(run / name, digest)
    except Damaged as error:
        known = {name, mark} & found.damaged
        found.damaged.add(name)
        if not known and not (vouched and not (run / mark).exists()):
            found.add(mark if vouched else name, "hash", _without(error, run), remedy_for(name, run))


def _check_part(run: Path, name: str, digest: str, found: FileReport) -> None:
    """One of several files that processes wrote together, whose sums stand in one mark."""
    path = run / name
    try:
        wanted = read_json(path.parent / PARTS)["files"].get(path.name)
    except (Damaged, KeyError, TypeError, AttributeError):
        return  # the mark is named itself
    if name in found.damaged:
        return
    if wanted is None:
        text = f"is not one of the files that {PARTS} names: another number of processes left it"
        found.add(name, "manifest", text, f"delete {path.parent}")
    elif wanted != digest:
        found.add(name, "hash", f"is damaged: its sha256 is not the one that {PARTS} gives", remedy_for(name, run))


def _parts_missing(run: Path, name: str, found: FileReport) -> None:
    """FileReport that the mark of several processes names, and their place."""
    folder = (run / name).parent
    try:
        mark = read_json(run / name)
        require_place(folder, mark, "")
        lacking = [part for part in mark["files"] if not (folder / part).is_file()]
    except (Damaged, KeyError, TypeError, AttributeError) as error:
        found.add(name, "hash", _without(error, run) or "names no files", remedy_for(name, run))
        return
    for part in lacking:
        place = f"{name.removesuffix(PARTS)}{part}"
        if place not in found.damaged:
            found.add(place, "hash", f"is missing, of {len(mark['files'])} that belong together", remedy_for(name, run))


def _check_sum(run: Path, name: str, found: FileReport) -> None:
    """The sum that a file carries itself, and that nothing but it was written."""
    path = run / name
    if name in found.damaged or path.suffix not in (".json", ".yaml"):
        return
    try:
        if path.suffix == ".yaml":
            read_sealed(path, "")
            return
        if name.startswith("figures/"):
            return
        if path.name == PARTS:
            _parts_missing(run, name, found)
            return
        value = read_json(path)
        if PLACE in (value if isinstance(value, dict) else {}) and not _has_data(path):
            found.add(name, "hash", "is the mark of a file that is missing", remedy_for(name, run))
        elif SEAL.encode() in path.read_bytes() and path.read_text(encoding="utf-8") != as_json(value):
            found.add(name, "hash", "is altered: its text is not what was written", remedy_for(name, run))
    except (Damaged, OSError, UnicodeDecodeError) as error:
        found.add(name, "hash", _without(error, run).partition(";")[0], remedy_for(name, run))


def _has_data(mark: Path) -> bool:
    return any(other.stem == mark.stem and other != mark for other in mark.parent.glob(f"{mark.stem}.*"))


def _without(error: Exception, run: Path) -> str:
    """An error's text without the path, which stands before it in a finding, and without its remedy."""
    text = " ".join(str(error).split()).removeprefix(str(run)).lstrip("/")
    first, _, rest = text.partition(" ")
    text = rest if "." in first else text
    head, _, _ = text.rpartition(";")
    return head or text


def _leftovers(run: Path) -> Iterator[AuditIssue]:
    """What killed writers left; whoever goes on with the study sweeps it away."""
    for place, folders, names in os.walk(run):
        here = Path(place)
        folders[:] = sorted(name for name in folders if not is_run(here / name))
        for name in sorted(names):
            if is_leftover(here / name):
                text = "is what a killed writer left, and nothing reads it"
                yield AuditIssue((here / name).relative_to(run).as_posix(), "leftover", text, "delete it")
