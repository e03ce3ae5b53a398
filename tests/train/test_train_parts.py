import hashlib
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leapverify.train.corpus import prepare
from leapverify.train.documents import SourcePart, load_documents, share_text, split_part
from leapverify.train.tokenizers import load_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """31 documents, two of them with the text of others."""
    place = tmp_path / "text"
    place.mkdir()
    for number in range(31):
        text = {17: 3, 20: 4}.get(number, number)
        (place / f"{number:02d}.txt").write_text(f"text number {text}\n" * 40)
    return place


def texts(spec: str) -> list[str]:
    return [document.text for document in load_documents(spec)]


def test_the_parts_are_the_different_documents_each_once(folder: Path) -> None:
    parts = [texts(f"text:{folder}#{i}/3") for i in (1, 2, 3)]
    assert sorted(text for part in parts for text in part) == sorted(set(texts(f"text:{folder}")))
    assert [len(part) for part in parts] == [10, 10, 9]
    assert parts[1][0] == "text number 1\n" * 40


def test_the_first_of_one_part_is_the_whole(folder: Path) -> None:
    assert texts(f"text:{folder}#1/1") == texts(f"text:{folder}")


def test_parts_are_cached_apart(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer("bytes")
    specs = [f"text:{folder}", f"text:{folder}#1/2", f"text:{folder}#2/2"]
    found = [prepare(spec, tokenizer, tmp_path / "cache") for spec in specs]
    assert len({corpus.identity for corpus in found}) == 3
    assert prepare(specs[1], tokenizer, tmp_path / "cache").identity == found[1].identity


@pytest.mark.parametrize(("spec", "wrong"), [("stdlib#0/2", "part 0 of 2"), ("stdlib#3/2", "part 3 of 2")])
def test_a_part_that_does_not_exist_is_refused(spec: str, wrong: str) -> None:
    message = f"data source '{spec}' has no {wrong}: count the parts from 1 to their number"
    with pytest.raises(ValueError, match=message):
        load_documents(spec)


def test_the_library_s_tests_are_no_part_of_the_library() -> None:
    tests = {document.name: document.text for document in load_documents("stdlib-tests#1/40")}
    assert tests
    assert all({"test", "tests", "idle_test"} & set(name.split("/")[:-1]) for name in tests)
    library = {document.name for document in load_documents("stdlib")}
    assert library.isdisjoint(tests)


def test_a_python_without_tests_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ast.py").write_text("x = 1\n")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(
        ValueError, match=f"no tests of the library in {tmp_path}: this Python comes without them, give"
    ):
        list(load_documents("stdlib-tests"))


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_parts_meet_exactly_where_a_number_belongs_to_both(n: int, m: int, data: st.DataObject) -> None:
    one, other = SourcePart(data.draw(st.integers(1, n)), n), SourcePart(data.draw(st.integers(1, m)), m)
    common = any(k % n == one.i - 1 and k % m == other.i - 1 for k in range(n * m))
    assert one.meets(other) == common


@pytest.mark.failure(14)
def test_which_sources_share_text(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    shared = [
        ("stdlib", "stdlib"),
        ("stdlib", "stdlib-code#1/2"),
        ("stdlib-prose", "stdlib"),
        ("stdlib-tests#1/2", "stdlib-tests"),
        ("stdlib-tests#1/2", "stdlib-tests#3/4"),
        (f"text:{tmp_path}", f"text:{inner}/../inner"),
        (f"text:{tmp_path}#1/2", f"text:{inner}#2/2"),
    ]
    apart = [
        ("stdlib-code", "stdlib-prose"),
        ("stdlib", "stdlib-tests"),
        ("stdlib-tests#1/2", "stdlib-tests#2/2"),
        ("wikitext-103", "stdlib"),
        (f"text:{inner}#1/2", f"text:{inner}#2/2"),
        (f"text:{inner}", f"text:{tmp_path}/other"),
    ]
    for pair in shared:
        assert share_text(*pair)
        assert share_text(*reversed(pair))
    for pair in apart:
        assert not share_text(*pair)
        assert not share_text(*reversed(pair))


@pytest.mark.failure(14)
def test_the_named_overlaps_are_the_real_ones() -> None:
    names = ("stdlib", "stdlib-code", "stdlib-tests")
    found = {name: {_digest(each.text) for each in load_documents(name)} for name in names}
    for a, b in itertools.combinations(names, 2):
        # A one-line dummy file is the same in the library and in its tests.
        assert (len(found[a] & found[b]) > 2) == share_text(a, b)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def test_a_wrong_file_is_refused_at_once_in_parts_too(tmp_path: Path) -> None:
    assert split_part("text:a#b") == ("text:a#b", SourcePart(1, 1))
    with pytest.raises(ValueError, match="does not exist"):
        load_documents(f"text:{tmp_path}/none#1/2")
