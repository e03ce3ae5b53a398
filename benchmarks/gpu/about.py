"""Which code a result is of, when it was made, and the table of README.md.

python benchmarks/gpu/about.py        # write that table anew
"""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from checklist import SCRIPTS, source_tree, table

from leapverify.io.storage import write_text

MARKS = ("<!-- jobs -->", "<!-- end of jobs -->")


def commit_of(given: str | None) -> str:
    """The commit of the code, with a plus sign where files differ from it."""
    if given is not None:
        return given
    tree = source_tree() or Path.cwd()

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(tree), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def bare(word: str) -> str:
    """An option without the folders of this machine."""
    head, colon, path = word.rpartition(":")
    return f"{head}{colon}{Path(path).name}" if "/" in path else word


def now() -> str:
    """Date and time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_table() -> None:
    """Put the table of the jobs into README.md."""
    tree = source_tree()
    assert tree is not None
    page = tree / SCRIPTS / "README.md"
    text = page.read_text()
    inner = re.compile(f"(?<={MARKS[0]}).*(?={MARKS[1]})", re.DOTALL)
    write_text(page, inner.sub(lambda _: f"\n{table(tree)}\n", text))


if __name__ == "__main__":
    write_table()
