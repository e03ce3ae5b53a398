"""What is made once for all tests of a session, whichever worker needs it first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills when it is first asked for; other workers wait, and then read it.

    Args:
        folder: where; nobody changes what is in it.
        make: writes it. After a failure the next one who asks begins again.
    """
    made = folder.with_name(f"{folder.name}.made")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            made.touch()
    return folder
