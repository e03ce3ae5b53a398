"""Text to token ids: bytes, or any Hugging Face tokenizer by name or local folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from leapverify.io.untrusted.paths import named
from leapverify.train.hub import first_line, hub
from leapverify.train.model_folder import NO_CODE, check_folder


@runtime_checkable
class Tokenizer(Protocol):
    """What the rest of the package asks of a tokenizer."""

    @property
    def identity(self) -> str:
        """Differs between tokenizers that would give different ids."""

    @property
    def vocab_size(self) -> int:
        """Ids are below it."""

    @property
    def eos_id(self) -> int:
        """Stands behind every document."""

    @property
    def pad_id(self) -> int:
        """Fills padded rows."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of several texts: as `encode` of each, but faster."""


class ByteTokenizer:
    """UTF-8 bytes as ids; 0, which no text source lets through, ends documents and fills padded rows."""

    identity = "bytes"
    vocab_size = 256
    eos_id = 0
    pad_id = 0

    def encode(self, text: str) -> list[int]:
        """The UTF-8 bytes of a text."""
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The UTF-8 bytes of several texts."""
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint32) for text in texts]


class HuggingFaceTokenizer:
    """A tokenizer of `transformers` behind the same face."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer = tokenizer
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        self.vocab_size = len(tokenizer)
        self.eos_id = _first(tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, name=name)
        self.pad_id = _first(tokenizer.pad_token_id, self.eos_id, name=name)
        self.identity = hashlib.sha256(self._description(name).encode()).hexdigest()

    def _description(self, name: str) -> str:
        if self._fast is not None:
            return f"{self._fast.to_str()} {self.eos_id}"
        return json.dumps([name, sorted(self._tokenizer.get_vocab().items()), self.eos_id])

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of several texts, without special tokens."""
        if self._fast is not None:
            rows = [found.ids for found in self._fast.encode_batch_fast(list(texts), add_special_tokens=False)]
        else:
            rows = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [np.asarray(row, dtype=np.uint32) for row in rows]


def _first(*candidates: int | None, name: str) -> int:
    for candidate in candidates:
        if candidate is not None:
            return candidate
    raise ValueError(f"tokenizer {name!r} has no end-of-text token: add one to its configuration, or use bytes")


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer called `bytes`, or a Hugging Face one by name or by local folder.

    Raises:
        ValueError: it cannot be found, fetched or read, or has no token to end documents with.
    """
    if name == "bytes":
        return ByteTokenizer()
    from transformers import AutoTokenizer

    folder = named(name)
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError(f"tokenizer folder {name} does not exist: give bytes, a Hugging Face name or a local folder")
    try:
        if folder.is_dir():
            check_folder(folder)
            found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, **NO_CODE)
        else:
            with hub():
                found = AutoTokenizer.from_pretrained(name, **NO_CODE)
    except Exception as error:  # Broken files and missing networks surface as many unrelated classes.
        remedy = "give bytes, a Hugging Face name or a local folder with tokenizer.json"
        raise ValueError(f"tokenizer {name!r} cannot be loaded ({first_line(error)}): {remedy}") from error
    return HuggingFaceTokenizer(found, name)
