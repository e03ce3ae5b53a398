"""A hundred small documents, all different."""

from __future__ import annotations

import random
from pathlib import Path

WORDS = [
    "the",
    "run",
    "of",
    "a",
    "model",
    "is",
    "a",
    "path",
    "and",
    "a",
    "leap",
    "ahead",
    "must",
    "be",
    "checked",
    "before",
    "it",
    "is",
    "believed",
]


def write_documents(folder: Path) -> Path:
    """Write them; the folder."""
    chance = random.Random(0)
    for number in range(100):
        lines = [" ".join(chance.choice(WORDS) for _ in range(12)) for _ in range(12)]
        (folder / f"document-{number:02d}.txt").write_text("\n\n".join(lines))
    return folder
