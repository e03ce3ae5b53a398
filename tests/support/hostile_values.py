"""Hostile files as hypothesis makes them up: bytes, trees as JSON and YAML, and valid files that were changed."""

from __future__ import annotations

import json
import random

import yaml
from hypothesis import strategies as st

from hostile_mutations import LEAVES, mutated
from hostile_readers import Reader

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(LEAVES)
TREES = st.recursive(PLAIN, lambda part: st.lists(part) | st.dictionaries(st.text(), part), max_leaves=8)


def changed(reader: Reader) -> st.SearchStrategy[bytes]:
    """The reader's valid file, changed at places that a number decides."""
    content = reader.valid()
    numbers = st.integers(0, 2**32 - 1)
    return numbers.map(lambda number: mutated(content, reader.kind, random.Random(number)))


def contents(reader: Reader) -> st.SearchStrategy[bytes]:
    """Whatever could lie where the reader looks."""
    found = st.binary(max_size=500) | changed(reader)
    if reader.kind == "json":
        found |= TREES.map(lambda tree: json.dumps(tree).encode())
    if reader.kind == "yaml":
        found |= TREES.map(lambda tree: yaml.safe_dump(tree).encode("utf-8", "surrogatepass"))
    if reader.kind == "safetensors":
        found |= TREES.map(_with_header)
    return found


def _with_header(tree: object) -> bytes:
    header = json.dumps(tree).encode()
    return len(header).to_bytes(8, "little") + header + bytes(64)
