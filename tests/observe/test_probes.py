"""Probe sets: the 100 of the study, identity, files."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest

from leapverify.observe.probes import ProbeSet, paper_probes


def test_the_studys_probes():
    probes = paper_probes()
    assert len(probes) == len(set(probes.texts)) == 100
    assert Counter(probes.kinds) == dict.fromkeys(("arithmetic", "linguistic", "factual", "random"), 25)
    for text in probes.texts:
        assert text.isascii()
        assert text.isprintable()
        assert 12 <= len(text.encode()) <= 96


def test_the_studys_probes_never_change():
    # Fingerprints of different versions are compared only if this holds; a new set needs a new name.
    assert paper_probes().identity == "799b9c9a174f308b1ac27d27d46e01a34dd53b1e793f79df43db6b8f430f0693"


def test_identity_tells_texts_kinds_and_order_apart():
    sets = [
        ProbeSet(("a", "b"), ("x", "y")),
        ProbeSet(("b", "a"), ("x", "y")),
        ProbeSet(("a", "c"), ("x", "y")),
        ProbeSet(("a", "b"), ("x", "x")),
        ProbeSet(("a", "b", "c"), ("x", "y", "y")),
    ]
    assert len({probes.identity for probes in sets}) == len(sets)
    assert ProbeSet(("a", "b"), ("x", "y")).identity == sets[0].identity


def test_a_set_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        paper_probes().texts = ()


def test_a_plain_file(tmp_path):
    path = tmp_path / "probes.txt"
    path.write_text("first probe\n\n  second probe \n")
    assert ProbeSet.from_file(path) == ProbeSet(("first probe", "second probe"), ("user", "user"))


def test_json_lines(tmp_path):
    path = tmp_path / "probes.jsonl"
    path.write_text(json.dumps({"text": "two\nlines", "kind": "own"}) + "\n\n" + json.dumps({"text": "plain"}) + "\n")
    assert ProbeSet.from_file(path) == ProbeSet(("two\nlines", "plain"), ("own", "user"))


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("p.txt", b"", "p.txt: a probe set needs at least one text"),
        ("p.txt", b"one\ntwo\none\n", "p.txt: probes 0 and 2 are the same text 'one': remove one of them"),
        ("p.txt", b"\xff\xfe\x00", "p.txt cannot be read as UTF-8 probes"),
        ("p.jsonl", b'{"text": "a"}\n{', "p.jsonl, line 2, is no JSON"),
        ("p.jsonl", b'{"kind": "a"}', "p.jsonl, line 1, has no `text` that is a string"),
        ("p.jsonl", b'["a"]', "p.jsonl, line 1, has no `text` that is a string"),
    ],
)
def test_bad_files(tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=text):
        ProbeSet.from_file(tmp_path / name)


def test_bad_sets(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.txt cannot be read as UTF-8 probes .* name a text file"):
        ProbeSet.from_file(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="2 probe texts have 1 kinds: give one kind per text"):
        ProbeSet(("a", "b"), ("x",))
    with pytest.raises(ValueError, match="probe 1 is empty"):
        ProbeSet(("a", " "), ("x", "x"))
