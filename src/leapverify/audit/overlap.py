"""Whether sequences of one set of text stand in another, at any offset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LENGTH = 64
"""Tokens that two places of a text must share, at least, to count: shorter ones repeat by chance."""
LENGTH_BYTES = 256
"""The same where a token is a byte."""
LIMIT = 0.25
"""Share of a set's sequences from which it counts as leaked."""
NOTED = 0.01
"""Share from which it is mentioned: below, tables and licences that many documents share."""

_BASE = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that it has an inverse modulo 2^64."""
_PIECE = 1 << 20


def runs_at(tokens: NDArray[np.integer], starts: Sequence[int], length: int) -> list[NDArray[np.integer]]:
    """`length` tokens from each start on, where so many follow."""
    return [tokens[start : start + length] for start in starts if start + length <= len(tokens)]


def contained(needles: Sequence[NDArray[np.integer]], tokens: NDArray[np.integer]) -> list[bool]:
    """Whether each needle stands in a text, at whatever offset.

    A rolling sum modulo 2^64 finds candidates, of which every one is then compared token by token.

    Args:
        needles: (L,) each, all of one length.
        tokens: (n,) the text; it may be memory-mapped, and is read in pieces.
    """
    if not needles or len(tokens) < len(needles[0]):
        return [False] * len(needles)
    length = len(needles[0])
    powers = _powers(max(_PIECE, 1) + length)
    wanted: dict[int, list[int]] = {}
    for number, needle in enumerate(needles):
        wanted.setdefault(int(_sums(needle, length, powers)[0]), []).append(number)
    keys = np.array(sorted(wanted), dtype=np.uint64)
    found = [False] * len(needles)
    for start in range(0, len(tokens) - length + 1, _PIECE):
        piece = np.asarray(tokens[start : start + _PIECE + length - 1])
        sums = _sums(piece, length, powers)
        for at in np.flatnonzero(np.isin(sums, keys)):
            for number in wanted[int(sums[at])]:
                found[number] = found[number] or bool(np.array_equal(piece[at : at + length], needles[number]))
    return found


def _powers(count: int) -> NDArray[np.uint64]:
    """BASE^0 .. BASE^(count - 1) modulo 2^64."""
    factors = np.full(count, _BASE, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _sums(tokens: NDArray[np.integer], length: int, powers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """sum_j (t_{i+j} + 1) BASE^(n-1-i-j) of every run of `length` tokens, moved to one power, modulo 2^64."""
    n = len(tokens)
    # Weighted by falling powers; the run that starts at i then carries the factor BASE^(n - i - length).
    terms = (tokens.astype(np.uint64) + np.uint64(1)) * powers[:n][::-1]
    total = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(terms, dtype=np.uint64)])
    runs = total[length:] - total[:-length]
    return runs * _inverse_powers(n - length + 1)[::-1]


def _inverse_powers(count: int) -> NDArray[np.uint64]:
    inverse = pow(int(_BASE), -1, 1 << 64)
    factors = np.full(count, inverse, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)
