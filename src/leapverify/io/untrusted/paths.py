"""Names and paths of unknown origin: plain file names, and folders that no link leads out of."""

from __future__ import annotations

import os
import re
from pathlib import Path

from leapverify.io.untrusted import limits
from leapverify.io.untrusted.escape import inert

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@ -]{0,199}")


def plain_name(name: object) -> bool:
    """Whether a name is that of a file in the very folder: no separator, no `..`, no control character, 200 at most."""
    return isinstance(name, str) and _PLAIN.fullmatch(name) is not None


def named(path: str | Path) -> Path:
    """The path that somebody named, `~` written out.

    Raises:
        ValueError: no file can have that name.
    """
    try:
        found = Path(path).expanduser()
        os.lstat(found)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return found
    except (OSError, RuntimeError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ValueError(f"{str(path)!r:.200} is no path ({reason}): name a file or folder") from error
    return found


def require_inside(folder: Path) -> None:
    """Refuse a run folder with links that lead out of it: what is read would be other people's, and so what is written.

    The folder itself may be a link. Links between its own files are left alone.

    Raises:
        ValueError: such a link, which is named, or more files than any run has.
    """
    try:
        root = folder.resolve()
        links, entries = _links(root)
    except OSError:
        return  # whoever reads it says so, and by which file
    if entries > limits.ENTRIES:
        raise ValueError(f"{folder} holds more than {limits.ENTRIES} files: name the run folder itself")
    for link in links:
        target = Path(os.path.realpath(link))
        if target != root and root not in target.parents:
            shown = inert(str(folder / link.relative_to(root)))
            raise ValueError(f"{shown} is a link that leaves the run folder: put the files themselves in its place")


def _links(root: Path) -> tuple[list[Path], int]:
    """The links below a folder, none of them followed, and the number of entries seen."""
    links, entries = [], 0
    for place, folders, names in os.walk(root):
        entries += len(folders) + len(names)
        if entries > limits.ENTRIES:
            break
        links += [path for name in (*folders, *names) if (path := Path(place, name)).is_symlink()]
    return links, entries
