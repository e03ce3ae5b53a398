import gzip
import json
import logging
import lzma
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leapverify.train.documents import Document, cut_at_lines, load_documents

TEXT = "".join(f"line {number} of some text\n" for number in range(1000))


def refused(spec: str) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the callers look at the whole text)
        list(load_documents(spec))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def joined(spec: str) -> str:
    return "".join(document.text for document in load_documents(spec))


def test_stdlib_holds_the_library_and_not_its_tests() -> None:
    names = [document.name for document in load_documents("stdlib")]
    assert {"ast.py", "json/decoder.py", "email/message.py"} <= set(names)
    assert len(names) == len(set(names))
    assert names == sorted(names, key=Path)
    for name in names:
        assert not {"test", "tests", "site-packages", "idle_test", "__pycache__"} & set(name.split("/"))


def test_stdlib_is_the_same_each_time() -> None:
    assert list(load_documents("stdlib")) == list(load_documents("stdlib"))


def test_a_python_without_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert (
        refused("stdlib") == f"no Python sources in {tmp_path}: this Python comes without them, give text:PATH instead"
    )


PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_plain_file_becomes_about_200_blocks(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"book.txt{suffix}"
    path.write_bytes(PACKERS[suffix](TEXT.encode()))
    documents = list(load_documents(f"text:{path}"))
    assert len(documents) == 200
    assert documents[0].name == f"book.txt{suffix}#00000"
    assert "".join(document.text for document in documents) == TEXT
    assert all(document.text.endswith("\n") for document in documents)


@pytest.mark.parametrize("suffix", PACKERS)
def test_json_lines_are_a_document_each(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    rows = ['{"text": "one\\nof two"}', "", '{"id": 3, "text": "two\u2028"}', '{"text": "  "}']
    path.write_bytes(PACKERS[suffix]("\n".join(rows).encode()))
    assert list(load_documents(f"text:{path}")) == [
        Document(f"rows.jsonl{suffix}#0000001", "one\nof two"),
        Document(f"rows.jsonl{suffix}#0000003", "two\u2028"),
    ]


def test_a_folder_of_many_files_is_a_document_each(tmp_path: Path) -> None:
    for number in range(25):
        path = tmp_path / f"part-{number % 3}" / f"{number:02d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"text {number}\n" * 3)
    (tmp_path / ".hidden").write_text("never")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("never")
    documents = list(load_documents(f"text:{tmp_path}"))
    assert len(documents) == 25
    assert documents[0] == Document("part-0/00.txt", "text 0\n" * 3)


def test_a_folder_of_few_files_is_cut_like_one_file(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name + TEXT)
    assert len(list(load_documents(f"text:{tmp_path}"))) == 200
    assert joined(f"text:{tmp_path}") == "a.txt" + TEXT + "b.txt" + TEXT


def test_a_folder_leaves_out_what_is_no_text_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    with caplog.at_level(logging.WARNING):
        assert joined(f"text:{tmp_path}") == TEXT
    assert "left out: data file" in caplog.text
    assert "picture.png is binary (a zero byte at 4)" in caplog.text


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert joined(f"text:{tmp_path / 'marked.txt'}") == TEXT


@given(st.text(alphabet="ab\n", max_size=60), st.integers(1, 9))
def test_blocks_joined_are_the_text(text: str, count: int) -> None:
    blocks = cut_at_lines(text, count)
    assert "".join(blocks) == text
    assert len(blocks) <= count
    assert all(blocks)
    assert all(block.endswith("\n") for block in blocks[:-1])


@pytest.mark.parametrize("spec", ["web", "text", "text:", "wikitext", ""])
def test_an_unknown_source_is_refused(spec: str) -> None:
    known = "stdlib, stdlib-code, stdlib-prose, stdlib-tests, text:PATH or wikitext-103"
    assert refused(spec) == f"data source {spec!r} is unknown: give {known}"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.txt", b"", "is empty: name a file that holds text"),
        ("blank.txt", b" \n\n\t", "is empty: name a file that holds text"),
        ("empty.jsonl", b"", "is empty: name a file that holds text"),
        ("binary.txt", b"ab\0c", "is binary (a zero byte at 2): name a UTF-8 text file"),
        ("latin.txt", b"caf\xe9 au lait", "is not UTF-8 text (byte 0xe9 at 3): convert it to UTF-8"),
        ("cut.gz", gzip.compress(TEXT.encode())[:-9], "cannot be read (Compressed file ended before"),
        ("wrong.gz", b"no archive at all", "cannot be read (Not a gzipped file"),
        ("flipped.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xff\xff\xff", "cannot be read (Error -3 while decompressing"),
        ("cut.xz", lzma.compress(TEXT.encode())[:-9], "cannot be read (Compressed file ended before"),
        ("wrong.xz", b"no archive at all", "cannot be read (Input format not supported"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert refused(f"text:{path}").startswith(f"data file {path} {reason}")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2 is no JSON"),
        ("[1]", 'line 2 has no string in a field "text"'),
        (json.dumps({"content": "x"}), 'line 2 has no string in a field "text"'),
        (json.dumps({"text": 3}), 'line 2 has no string in a field "text"'),
        (json.dumps({"text": "a\0b"}), "line 2 holds a zero byte or half a character: remove that line"),
        (json.dumps({"text": "a\ud800b"}), "line 2 holds a zero byte or half a character: remove that line"),
    ],
)
def test_a_bad_json_line_is_refused_by_number(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "good"}\n' + line)
    assert reason in refused(f"text:{path}")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert (
        refused(f"text:{tmp_path}/none.txt")
        == f"data file {tmp_path}/none.txt does not exist: check the path after text:"
    )


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    assert refused(f"text:{tmp_path}").startswith(f"folder {tmp_path} holds no readable text file")


def fake_datasets(monkeypatch: pytest.MonkeyPatch, load: Callable[..., object]) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    module.config = types.SimpleNamespace(HF_HUB_OFFLINE=False)  # type: ignore[attr-defined]
    monkeypatch.setattr("leapverify.train.hub.reachable", lambda address: False)
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_wikitext_lines_are_joined_to_articles(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["", " = One = \n", "", " text \n", " = = Part = = \n", " more \n", "", " = Two words = \n", " text \n"]
    fake_datasets(monkeypatch, lambda *_, **__: [{"text": line} for line in lines])
    assert [document.text for document in load_documents("wikitext-103")] == [
        " = One = \n\n text \n = = Part = = \n more \n\n",
        " = Two words = \n text \n",
    ]


def test_wikitext_offline_points_to_a_local_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'Salesforce/wikitext' on the Hub\nand more")

    fake_datasets(monkeypatch, offline)
    reason = "Couldn't reach 'Salesforce/wikitext' on the Hub"
    assert refused("wikitext-103") == f"wikitext-103 cannot be fetched ({reason}): name a local copy as text:PATH"


def test_wikitext_without_the_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert re.search(r"install leapverify\[datasets\], or name a local copy", refused("wikitext-103"))
