"""Leakage: whether sequences of held-out or reported text also stand in another set."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from leapverify.audit.finding import AuditIssue
from leapverify.train.corpus import Corpus, TokenSet, prepare
from leapverify.train.tokenizers import load_tokenizer

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


WORDS = {"train": "trained on", "heldout": "held out for decisions", "val": "reported"}
_REMEDY = "give text whose documents differ, or remove the copies, and begin a new study"


@dataclass(frozen=True)
class Text:
    """What a configuration says of its text."""

    source: str
    tokenizer: str
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05)
    """Shares of the documents for training, held-out and reported text."""


Looked: TypeAlias = set[Text]


def check_text(wanted: Text, name: str, looked: Looked) -> Iterator[AuditIssue]:
    """Cut a source into its three sets again and look for sequences of one in another; the cache is left alone.

    Args:
        wanted: the text.
        name: of the file that names it.
        looked: texts that need not be looked at again; this one is added.
    """
    if wanted in looked:
        return
    looked.add(wanted)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            corpus = prepare(wanted.source, load_tokenizer(wanted.tokenizer), Path(scratch), wanted.fractions)
        except (ValueError, OSError) as error:
            why = " ".join(str(error).split())
            text = f"whether held-out and reported text overlap was not looked at: the text is not at hand ({why})"
            yield AuditIssue(name, "heldout", text, "verify again where the text is", problem=False)
            return
        yield from check_corpus(corpus, name, LENGTH_BYTES if wanted.tokenizer == "bytes" else LENGTH)


def check_corpus(corpus: Corpus, name: str, length: int) -> Iterator[AuditIssue]:
    """Sequences of `length` tokens of held-out and reported text that stand in another set."""
    sets = {"heldout": corpus.heldout, "val": corpus.val, "train": corpus.train}
    for (small, a), (large, b) in itertools.combinations(sets.items(), 2):
        shared, tried = shared_runs(a, b, length)
        if tried and shared > NOTED * tried:
            leaked = shared > LIMIT * tried
            text = (
                f"of the text that is {WORDS[small]}, {shared} of {tried} sequences of {length} tokens also stand in "
                f"what is {WORDS[large]} ({100 * shared / tried:.1f} %; from {100 * LIMIT:.0f} % on it is a leak)"
            )
            yield AuditIssue(name, "heldout", text, _REMEDY if leaked else "", problem=leaked)


def shared_runs(a: TokenSet, b: TokenSet, length: int) -> tuple[int, int]:
    """How many runs of tokens of the first set stand in the second, and of how many.

    They are cut one after the other from the beginning of every document; runs of one token alone do not count.
    """
    needles = [run for run in runs_at(a.tokens, _starts(a, length), length) if len(np.unique(run)) > 1]
    return sum(contained(needles, b.tokens)), len(needles)


def _starts(tokens: TokenSet, length: int) -> list[int]:
    ends = zip(tokens.documents[:-1].tolist(), tokens.documents[1:].tolist(), strict=True)
    return [at for start, end in ends for at in range(start, end - length + 1, length)]
