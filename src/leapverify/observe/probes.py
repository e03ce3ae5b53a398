"""Probe sets: the fixed texts whose activations are the fingerprint of a model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from leapverify.io.untrusted import limits
from leapverify.io.untrusted.paths import named
from leapverify.io.untrusted.text import parse_json, read_bounded
from leapverify.observe.probe_texts import ARITHMETIC, FACTUAL, LINGUISTIC, RANDOM


@dataclass(frozen=True)
class ProbeSet:
    """Fixed texts and what kind each is; the same set has to be used wherever fingerprints are compared.

    Raises:
        ValueError: no text, an empty text, a text that occurs twice, or not one kind per text.
    """

    texts: tuple[str, ...]
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("a probe set needs at least one text, and this one has none")
        if len(self.texts) != len(self.kinds):
            raise ValueError(f"{len(self.texts)} probe texts have {len(self.kinds)} kinds: give one kind per text")
        first: dict[str, int] = {}
        for i, text in enumerate(self.texts):
            if not text.strip():
                raise ValueError(f"probe {i} is empty: every probe needs some text")
            if text in first:
                raise ValueError(f"probes {first[text]} and {i} are the same text {text!r}: remove one of them")
            first[text] = i

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def identity(self) -> str:
        """The sha256 of texts and kinds in their order, in hexadecimal."""
        return hashlib.sha256(json.dumps([self.texts, self.kinds]).encode()).hexdigest()

    @classmethod
    def from_file(cls, path: str | Path) -> ProbeSet:
        """Read probes from a UTF-8 file: one text per line, or JSON lines with `text` and, if wanted, `kind`.

        A file named `.jsonl` is read as JSON lines; blank lines are skipped; the kind is `user` where none is given.

        Raises:
            ValueError: the file cannot be read, or a line does not hold a probe; the line is named.
        """
        path = named(path)
        try:
            lines = read_bounded(path, limits.PROBES_BYTES).decode().splitlines()
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as UTF-8 probes ({error}): name a text file") from error
        rows = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
        if path.suffix == ".jsonl":
            probes = [_json_probe(path, number, line) for number, line in rows]
        else:
            probes = [(line.strip(), "user") for _, line in rows]
        try:
            return cls(tuple(text for text, _ in probes), tuple(kind for _, kind in probes))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _json_probe(path: Path, number: int, line: str) -> tuple[str, str]:
    try:
        row = parse_json(line.encode())
    except ValueError as error:
        raise ValueError(f"{path}, line {number}, is no JSON ({error}): give an object with `text`") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise ValueError(f"{path}, line {number}, has no `text` that is a string: give an object with `text`")
    return row["text"], str(row.get("kind", "user"))


def paper_probes() -> ProbeSet:
    """The 100 probes of the study: 25 each of arithmetic, linguistic, factual and random, all different.

    The paper does not print its probes; it names these four kinds and the number (arXiv 2602.19580, section 2.2).
    """
    groups = {"arithmetic": ARITHMETIC, "linguistic": LINGUISTIC, "factual": FACTUAL, "random": RANDOM}
    pairs = [(text, kind) for kind, texts in groups.items() for text in texts]
    return ProbeSet(tuple(text for text, _ in pairs), tuple(kind for _, kind in pairs))
