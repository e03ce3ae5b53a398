"""Whether what decides, what is reported and what is trained on are texts of their own."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from leapverify.audit.finding import Finding
from leapverify.audit.overlap import LENGTH, LENGTH_BYTES, LIMIT, NOTED, contained, runs_at
from leapverify.train.corpus import Corpus, TokenSet, prepare
from leapverify.train.tokenizers import load_tokenizer

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


def check_text(wanted: Text, name: str, looked: Looked) -> Iterator[Finding]:
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
            yield Finding(name, "heldout", text, "verify again where the text is", problem=False)
            return
        yield from check_corpus(corpus, name, LENGTH_BYTES if wanted.tokenizer == "bytes" else LENGTH)


def check_corpus(corpus: Corpus, name: str, length: int) -> Iterator[Finding]:
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
            yield Finding(name, "heldout", text, _REMEDY if leaked else "", problem=leaked)


def shared_runs(a: TokenSet, b: TokenSet, length: int) -> tuple[int, int]:
    """How many runs of tokens of the first set stand in the second, and of how many.

    They are cut one after the other from the beginning of every document; runs of one token alone do not count.
    """
    needles = [run for run in runs_at(a.tokens, _starts(a, length), length) if len(np.unique(run)) > 1]
    return sum(contained(needles, b.tokens)), len(needles)


def _starts(tokens: TokenSet, length: int) -> list[int]:
    ends = zip(tokens.documents[:-1].tolist(), tokens.documents[1:].tolist(), strict=True)
    return [at for start, end in ends for at in range(start, end - length + 1, length)]
