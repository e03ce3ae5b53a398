"""Files that are whole or absent: atomic replacement, and files with a sha256 in a mark beside them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from leapverify.errors import Damaged, NotWritten
from leapverify.io.checksum import as_json, is_as_written, sealed, unsealed
from leapverify.io.untrusted import limits
from leapverify.io.untrusted.tensors import check_safetensors
from leapverify.io.untrusted.text import first_line, open_regular, parse_json, read_bounded

if TYPE_CHECKING:
    from torch import Tensor


_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space or name another folder",
    errno.EDQUOT: "the disk quota is used up: free some space or name another folder",
    errno.EFBIG: "the file would be larger than this system lets files be: raise the limit (ulimit -f)",
    errno.EIO: "the disk has a fault: look at it, and name another folder",
    errno.EROFS: "the file system is read-only: name another folder",
    errno.EACCES: "permission is denied: name a folder that you may write",
    errno.ENOTDIR: "a file lies where a folder is needed: name another folder",
    errno.EEXIST: "a file lies where a folder is needed: name another folder",
    errno.EPERM: "permission is denied: name a folder that you may write",
}

_AGAIN = "give the same command again"
PLACE = "place"
"""Key of a mark: where its file belongs, so that one seed's weights are not taken for another's."""
_SEED = re.compile(r"seed-\d+")


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    Data reach the disk before the name does, so that a machine that stops in between leaves the old file.

    Raises:
        NotWritten: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    with in_one_sentence(f"{path} cannot be written"):
        make_folder(path.parent)
        try:
            with temporary.open("xb") as handle:
                yield handle
            _reach_disk(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _reach_disk(path.parent)


@contextmanager
def in_one_sentence(what: str) -> Iterator[None]:
    """Say what the system refuses inside as one sentence, with what helps.

    Args:
        what: begins it, such as `FILE cannot be written`.

    Raises:
        NotWritten: the disk is full or broken, or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        raise NotWritten(f"{what}: {_REMEDIES[error.errno]}") from error


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing; a machine that stops afterwards leaves them there.

    Raises:
        OSError: the system refuses.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        _reach_disk(each.parent)


def _reach_disk(path: Path) -> None:
    # By name, not by an open handle: a writer that was given the name may have put another file in its place.
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with replace_file(path) as handle:
        handle.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all; a mapping goes with the sha256 of its own content."""
    write_text(path, as_json(value))


def read_json(path: Path) -> Any:
    """The value in a JSON file, without the sha256 of its content, which is checked; earlier versions wrote none.

    Raises:
        Damaged: the file is missing, cannot be read, is no JSON or beyond the limits, or its content is not what was
            written.
    """
    try:
        found = parse_json(read_bounded(path, limits.JSON_BYTES))
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing: {_AGAIN}") from error
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror}): delete it and {_AGAIN}") from error
    except ValueError as error:
        text = f"it is no JSON within the limits ({error})"
        raise Damaged(f"{path} is damaged: {text}; delete it and {_AGAIN}") from error
    if isinstance(found, dict) and not is_as_written(found):
        raise Damaged(f"{path} is damaged: its content is not what was written; delete it and {_AGAIN}")
    return found


def write_sealed(path: Path, text: str) -> None:
    """Write text that begins with a comment, the sha256 of all below it; whole or not at all."""
    write_text(path, sealed(text))


def read_sealed(path: Path, remedy: str) -> str:
    """The text that `write_sealed` wrote, checked, without its first line; other text as it is.

    Raises:
        Damaged: the text is not what was written, or is larger than any configuration; the message ends with the
            remedy.
        OSError, UnicodeDecodeError: the file cannot be read, or is no text.
    """
    try:
        content = read_bounded(path, limits.YAML_BYTES)
    except ValueError as error:
        raise Damaged(f"{path} is damaged: {error}; {remedy}") from error
    text = unsealed(content)
    if text is None:
        raise Damaged(f"{path} is damaged: its text is not what was written; {remedy}")
    return text.decode()


def remove(path: Path) -> None:
    """Delete a file, if it is there; after a power cut it does not come back.

    Raises:
        NotWritten: the folder cannot be written.
    """
    with in_one_sentence(f"{path} cannot be deleted"), contextlib.suppress(FileNotFoundError):
        path.unlink()
        _reach_disk(path.parent)


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with open_regular(path) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def replace_marked(path: Path, **about: Any) -> Iterator[IO[bytes]]:
    """`replace_file` with a mark beside it, `path` with suffix `.json`: the file's sha256 and whatever else is told.

    The mark goes first and keeps the mark before it as `previous`. Killed anywhere in between, an older pair still
    reads as what it was, and where there was none there is a mark alone, never a file without one.

    Raises:
        NotWritten: the disk is full, or the folder cannot be written.
    """
    with replace_file(path) as handle:
        yield handle
        handle.flush()
        mark = {**about, PLACE: place_of(path), "sha256": sha256_of(Path(handle.name))}
        older = _older_mark(path)
        write_json(path.with_suffix(".json"), mark if older is None else {**mark, "previous": older})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], **about: Any) -> None:
    """Write tensors as safetensors, marked: killed anywhere in between, an older pair loads as it was.

    Raises:
        NotWritten: the disk is full, or the folder cannot be written.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replace_marked(path, **about) as handle:
        _write_safetensors(on_cpu, handle.name)


def _write_safetensors(tensors: Mapping[str, Tensor], name: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    mode = os.stat(name).st_mode
    try:
        save_file(dict(tensors), name)
        # It puts a file of its own in place, which nobody else may read.
        os.chmod(name, mode)
    except SafetensorError as error:
        # The library wraps the system's error and keeps only its text.
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error)) from error


def _older_mark(path: Path) -> dict[str, Any] | None:
    try:
        mark = read_mark(path)
        digest = sha256_of(path)
    except (Damaged, OSError):
        return None
    return _mark_of(mark, digest)


def _mark_of(mark: dict[str, Any], digest: str) -> dict[str, Any] | None:
    """The mark, or the one before it, whichever names this sha256."""
    previous = mark.pop("previous", None)
    for candidate in (mark, previous):
        if isinstance(candidate, dict) and candidate.get("sha256") == digest:
            return candidate
    return None


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: the tensors (CPU) and what was told about them.

    Raises:
        Damaged: either file is missing, the sha256 differs, or the content is no safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    about = check_tensors(path)
    try:
        check_safetensors(path)
        return load_file(path), about
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, LookupError) as error:
        raise Damaged(f"{path} is damaged: it is no safetensors file ({first_line(error)}); delete it") from error


def check_tensors(path: Path) -> dict[str, Any]:
    """What was told about the tensors at `path`, after a check that the file is the one that was written.

    Raises:
        Damaged: either file is missing or the sha256 differs.
    """
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror}): delete its mark {path.stem}.json") from error
    return check_digest(path, digest)


def check_digest(path: Path, digest: str) -> dict[str, Any]:
    """What was told about a marked file whose sha256 is this.

    Raises:
        Damaged: its mark is missing, or names another sha256 or another place.
    """
    return _about(path, digest, "delete both")


def read_marked(path: Path, remedy: str, limit_bytes: int = sys.maxsize - 1) -> tuple[bytes, dict[str, Any]]:
    """The content of a file written by `replace_marked`, and what was told about it.

    Raises:
        Damaged: either file is missing, the sha256 differs, or it is larger than may be read; the message ends with
            the remedy.
    """
    try:
        content = read_bounded(path, limit_bytes)
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing: {remedy}") from error
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    except ValueError as error:
        raise Damaged(f"{path} is damaged: {error}; {remedy}") from error
    return content, _about(path, hashlib.sha256(content).hexdigest(), remedy)


def _about(path: Path, digest: str, remedy: str) -> dict[str, Any]:
    # The mark is read after the file: a writer at work puts the mark first, and it knows the file before, too.
    about = _mark_of(read_mark(path, remedy), digest)
    if about is None:
        raise Damaged(f"{path} is damaged: its sha256 is not the one that {path.stem}.json gives; {remedy}")
    require_place(path, about, remedy)
    return about


def require_place(path: Path, about: dict[str, Any], remedy: str) -> None:
    """Take the place out of a mark, and make sure that it is where the file lies; earlier versions gave none.

    Raises:
        Damaged: the file was written elsewhere, such as for another seed.
    """
    place = about.pop(PLACE, place_of(path))
    if place != place_of(path):
        raise Damaged(f"{path} is another file, which was written as {place}; {remedy}")


def place_of(path: Path) -> str:
    """Where a file belongs: its name, and from the folder of a seed on the way there."""
    parts = path.absolute().parts
    seeds = [number for number, part in enumerate(parts) if _SEED.fullmatch(part)]
    return "/".join(parts[seeds[-1] if seeds else -1 :])


def read_mark(path: Path, remedy: str = "delete both") -> dict[str, Any]:
    """What was told about the file at `path` when it was written, unchecked against the file.

    Raises:
        Damaged: the mark is missing, unreadable, or gives no sha256.
    """
    mark = path.with_suffix(".json")
    try:
        about = read_json(mark)
    except Damaged as error:
        raise Damaged(f"{path} is not complete: its mark {mark.name} is missing or unreadable; {remedy}") from error
    if not isinstance(about, dict) or "sha256" not in about:
        raise Damaged(f"{path} is not complete: {mark.name} gives no sha256; {remedy}")
    return about
