"""Text cut into three disjoint sets of token sequences, tokenised once and kept as memory-mapped bins."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leapverify.errors import Damaged
from leapverify.io.storage import read_json, replace_file, sha256_of, write_json
from leapverify.io.yaml_file import as_written
from leapverify.train.batches import Windows
from leapverify.train.documents import Document, load_documents
from leapverify.train.tokenizers import Tokenizer

logger = logging.getLogger(__name__)
SPLITS = ("train", "heldout", "val")
FORMAT = 1
"""Part of the cache key: raised when the bins change their layout."""
_TYPES = {name: np.dtype(name) for name in ("uint16", "uint32")}
_BLANK_LINES = re.compile(r"\n(?:[ \t\r]*\n)+")
_SHORTEST_PASSAGE = 32
_BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class TokenSet:
    """The tokens of one split: documents one after the other, each followed by the end-of-text token."""

    source: str
    split: str
    tokens: NDArray[Any]
    """uint16 or uint32, memory-mapped."""
    documents: NDArray[np.int64]
    """(documents + 1,): where each starts; the last entry is the number of tokens."""
    passages: NDArray[np.int64]
    """(passages, 2): first token and one past the last of each passage; end-of-text tokens lie outside."""
    pad_id: int

    def __len__(self) -> int:
        return len(self.tokens)

    def windows(
        self,
        sequence_length: int,
        form: Literal["packed", "padded"] = "packed",
        pad_id: int | None = None,
        at_least: int = 1,
    ) -> Windows:
        """Cut the tokens into sequences.

        Args:
            sequence_length: T, tokens.
            form: `packed`: the tokens end to end, cut every T; `padded`: a passage a row, cut or padded to T.
            pad_id: fills padded rows; the tokenizer's by default.
            at_least: how many sequences are needed.

        Raises:
            ValueError: unknown form, T below 2, or fewer sequences than needed.
        """
        if sequence_length < 2:
            raise ValueError(f"sequence length {sequence_length} is too short: at least 2 tokens are needed")
        if form == "packed":
            starts = np.arange(len(self.tokens) // sequence_length, dtype=np.int64) * sequence_length
            ends = starts + sequence_length
        elif form == "padded":
            starts, ends = self.passages[np.diff(self.passages, axis=1)[:, 0] >= 2].T
        else:
            raise ValueError(f"form {form!r} is unknown: give packed or padded")
        if len(starts) < at_least:
            raise ValueError(self._too_little(sequence_length, at_least, len(starts)))
        return Windows(self.tokens, starts, ends, sequence_length, self.pad_id if pad_id is None else pad_id)

    def _too_little(self, length: int, needed: int, found: int) -> str:
        return (
            f"too little text in {self.source} for its {self.split} set: {len(self.tokens)} tokens found "
            f"({found} sequences of {length}), {needed * length} needed; give more text or shorter sequences"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Three sets that share no document."""

    train: TokenSet
    heldout: TokenSet
    """For verification: what decisions may read."""
    val: TokenSet
    """For reporting: no decision ever reads it."""
    identity: str
    """Hash of documents, tokenizer and fractions."""


def default_cache() -> Path:
    """$LEAPVERIFY_CACHE, or leapverify/ in $XDG_CACHE_HOME or ~/.cache."""
    chosen = os.environ.get("LEAPVERIFY_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leapverify"


def prepare(
    source: str,
    tokenizer: Tokenizer,
    cache_dir: Path | None = None,
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05),
) -> Corpus:
    """Read, split and tokenise a source; or take the bins that an earlier call left in the cache.

    Identical documents count once. Documents are ordered by the sha256 of their names; the first share is held out
    for verification, the second for validation, the rest is trained on.

    Args:
        source: as for `load_documents`.
        tokenizer: as from `load_tokenizer`.
        cache_dir: folder of the bins; `default_cache()` by default.
        fractions: shares of the documents for training, held-out and validation; they add up to 1.

    Raises:
        ValueError: no such source, unreadable text, fewer than three documents, wrong fractions.
        NotWritten: the cache cannot be written.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"split fractions {tuple(fractions)} are no three positive shares that add up to 1")
    documents, digests = _different(load_documents(source))
    identity = _identity(digests, tokenizer, fractions)
    folder = (default_cache() if cache_dir is None else Path(cache_dir)) / identity[:32]
    try:
        return _open(folder, source, identity, tokenizer)
    except Damaged as error:
        if folder.exists():
            logger.warning("%s: tokenising %s again", error, source)
    splits = split_documents(documents, fractions, source)
    _write(folder, splits, tokenizer)
    return _open(folder, source, identity, tokenizer)


def _different(documents: Iterator[Document]) -> tuple[list[Document], list[str]]:
    kept: dict[str, Document] = {}
    for document in documents:
        kept.setdefault(hashlib.sha256(document.text.encode()).hexdigest(), document)
    return list(kept.values()), list(kept)


def _identity(digests: Sequence[str], tokenizer: Tokenizer, fractions: Sequence[float]) -> str:
    key = [FORMAT, tokenizer.identity, list(fractions), list(digests)]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def split_documents(
    documents: Sequence[Document], fractions: tuple[float, float, float], source: str = "the source"
) -> dict[str, list[Document]]:
    """Deal documents out to the three splits, at least one each, in the order of the sha256 of their names.

    Raises:
        ValueError: fewer than three documents.
    """
    if len(documents) < 3:
        raise ValueError(
            f"too little text in {source}: {len(documents)} different documents found, 3 needed (one for each of "
            "training, held-out and validation); give more text"
        )
    ordered = sorted(documents, key=lambda document: hashlib.sha256(document.name.encode()).digest())
    heldout = max(1, round(fractions[1] * len(ordered)))
    val = max(1, round(fractions[2] * len(ordered)))
    val = min(val, len(ordered) - 2)
    heldout = min(heldout, len(ordered) - val - 1)
    return {"heldout": ordered[:heldout], "val": ordered[heldout : heldout + val], "train": ordered[heldout + val :]}


def cut_passages(text: str) -> list[str]:
    """Cut a text behind its blank lines into passages, very short ones joined; together they are the text."""
    passages, start = [], 0
    for gap in _BLANK_LINES.finditer(text):
        if gap.end() - start >= _SHORTEST_PASSAGE:
            passages.append(text[start : gap.end()])
            start = gap.end()
    if start < len(text):
        passages.append(text[start:])
    return passages


def _write(folder: Path, splits: dict[str, list[Document]], tokenizer: Tokenizer) -> None:
    # Two processes that build the same bins write the same bytes, so whichever replaces whose does no harm.
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    files = {}
    for split in SPLITS:
        documents, passages = _write_tokens(folder / f"{split}.bin", splits[split], tokenizer, dtype)
        for name, array in ((f"{split}.documents", documents), (f"{split}.passages", passages)):
            with replace_file(folder / name) as handle:
                handle.write(array.astype("<i8").tobytes())
        for name in (f"{split}.bin", f"{split}.documents", f"{split}.passages"):
            files[name] = sha256_of(folder / name)
    write_json(folder / "manifest.json", {"dtype": dtype.name, "sha256": files})


def _write_tokens(
    path: Path, documents: Sequence[Document], tokenizer: Tokenizer, dtype: np.dtype[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Write the tokens; return where documents start (and the last ends) and where passages start and end."""
    starts, passages, position = [0], [], 0
    with replace_file(path) as handle:
        for group in _groups(documents):
            pieces = [cut_passages(document.text) for document in group]
            encoded = iter(tokenizer.encode_batch([piece for found in pieces for piece in found]))
            row = []
            for found in pieces:
                for ids in (next(encoded) for _ in found):
                    passages.append((position, position + len(ids)))
                    position += len(ids)
                    row.append(ids)
                row.append(np.array([tokenizer.eos_id], dtype=np.uint32))
                position += 1
                starts.append(position)
            handle.write(np.concatenate(row).astype(dtype.newbyteorder("<")).tobytes())
    return np.array(starts, dtype=np.int64), np.array(passages, dtype=np.int64).reshape(-1, 2)


def _groups(documents: Sequence[Document]) -> Iterator[list[Document]]:
    """Documents in batches of about a million characters: enough for the tokenizer's threads, little for memory."""
    group: list[Document] = []
    characters = 0
    for document in documents:
        group.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _open(folder: Path, source: str, identity: str, tokenizer: Tokenizer) -> Corpus:
    """Map the bins of a cache folder, after a check of every file's sha256."""
    try:
        manifest = read_json(folder / "manifest.json")
        dtype = _TYPES[manifest["dtype"]].newbyteorder("<")
        for name in (f"{split}.{part}" for split in SPLITS for part in ("bin", "documents", "passages")):
            if sha256_of(folder / name) != manifest["sha256"][name]:
                raise Damaged(f"cached tokens {folder / name} are damaged")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise error if isinstance(error, Damaged) else Damaged(f"cached tokens {folder} are not complete") from error
    sets = {}
    with as_written(folder, "delete it"):
        for split in SPLITS:
            tokens = np.memmap(folder / f"{split}.bin", dtype=dtype, mode="r")
            documents = np.fromfile(folder / f"{split}.documents", dtype="<i8")
            passages = np.fromfile(folder / f"{split}.passages", dtype="<i8").reshape(-1, 2)
            sets[split] = TokenSet(source, split, tokens, documents, passages, tokenizer.pad_id)
    return Corpus(sets["train"], sets["heldout"], sets["val"], identity)
