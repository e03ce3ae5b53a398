"""Parts of a text source, `SOURCE#i/n`, and whether two sources may hold the same text."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leapverify.train.sources import Document

_PART = re.compile(r"(.+)#(\d{1,4})/(\d{1,4})")
_OVERLAPS = frozenset({frozenset({"stdlib", "stdlib-code"}), frozenset({"stdlib", "stdlib-prose"})})
"""Different sources with text in common: the library's files include those of its help()."""


@dataclass(frozen=True)
class Part:
    """The i-th of n parts, i from 1 on."""

    i: int
    n: int

    def meets(self, other: Part) -> bool:
        """Whether any number belongs to both parts.

        k = i - 1 mod n and k = j - 1 mod m have a common solution exactly if i = j mod gcd(n, m).
        """
        return (self.i - other.i) % math.gcd(self.n, other.n) == 0


def split_part(spec: str) -> tuple[str, Part]:
    """A source and which part of it is meant; the whole is part 1 of 1.

    Raises:
        ValueError: there is no such part.
    """
    found = _PART.fullmatch(spec)
    if found is None:
        return spec, Part(1, 1)
    i, n = int(found[2]), int(found[3])
    if not 1 <= i <= n:
        raise ValueError(f"data source {spec!r} has no part {i} of {n}: count the parts from 1 to their number")
    return found[1], Part(i, n)


def take(part: Part, documents: Iterable[Document]) -> Iterator[Document]:
    """Every n-th of the different documents; a text that occurs twice is dealt out once, so that no two parts share it.

    Args:
        part: which; the whole is passed on as it is.
        documents: in the order of their source.
    """
    if part.n == 1:
        yield from documents
        return
    seen: set[bytes] = set()
    for document in documents:
        digest = hashlib.sha256(document.text.encode()).digest()
        if digest not in seen and len(seen) % part.n == part.i - 1:
            yield document
        seen.add(digest)


def share_text(one: str, other: str) -> bool:
    """Whether two sources may hold the same text, as far as their names tell.

    Raises:
        ValueError: a part that does not exist.
    """
    (a, part), (b, another) = split_part(one), split_part(other)
    if a == b:
        return part.meets(another)
    if a.startswith("text:") and b.startswith("text:"):
        x, y = (Path(each.removeprefix("text:")).expanduser().resolve() for each in (a, b))
        # The same files, but numbered differently where one folder lies in the other.
        return part.meets(another) if x == y else x in y.parents or y in x.parents
    return frozenset({a, b}) in _OVERLAPS
