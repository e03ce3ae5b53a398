"""Every limit refuses by its number, before memory is taken; nothing that is named leads out of its folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hostile_readers import READERS, row
from leapverify.errors import Damaged
from leapverify.io import records
from leapverify.io.records import LossPoint, schema_of
from leapverify.io.untrusted import limits
from leapverify.io.untrusted.parquet import check_parquet, opened
from leapverify.io.untrusted.paths import plain_name
from leapverify.io.untrusted.tensors import check_safetensors, check_torch_file
from leapverify.io.untrusted.text import parse_json, parse_yaml, read_bounded
from leapverify.train.documents import read_text
from leapverify.train.model_folder import check_folder
from leapverify.train.tokenizers import load_tokenizer

pytestmark = pytest.mark.failure(15)


@contextmanager
def at_most(mebibytes: int) -> Iterator[None]:
    """Python's own memory within the block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes << 20
    finally:
        tracemalloc.stop()


def laughs(levels: int = 30) -> str:
    """A thousand million laughs in a thousand bytes."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(levels)]
    return "\n".join(lines)


def merges(levels: int = 30) -> str:
    """The same by merge keys, which grow while the tree is built."""
    lines = ["a0: &a0 {k: 1, l: 2}"]
    lines += [f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}]}}" for i in range(levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (laughs(), "with its aliases written out, more than 100000"),
        (merges(), "with its aliases written out, more than 100000"),
        ("[" * 5000, "more than 64 levels"),
        ("- " * 5000, "more than 64 levels"),
        ("&a [*a]", "refers to itself"),
        ("&a {<<: *a}", "refers to itself"),
        ("a: " + "x" * 70_000, "it has 70003 bytes, more than 65536"),
        ("9" * 5000, "a number of 5000 characters, more than 400"),
        ("1:" * 3000 + "1", "a number of 6001 characters, more than 400"),
        ("!!python/object/apply:os.system [touch owned]", "it is not YAML"),
        ("!!int ''", "it is not YAML"),
        ("2001-99-99", "it is not YAML"),
        ('"\\ud800"', "half a character"),
        ("x: \0", "it is not YAML"),
    ],
)
def test_yaml_beyond_the_limits_is_refused(text: str, said: str) -> None:
    with at_most(64), pytest.raises(ValueError, match=said):
        parse_yaml(text)


def test_aliases_alone_are_no_harm() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 65 + b"]" * 65, "more than 64 levels"),
        (b"[" * 100_000, "more than 64 levels"),
        (b"[" + b"0," * limits.JSON_VALUES + b"0]", "more than 2000000"),
        (b'"\\ud800"', "half a character"),
        (b'{"\\udfff": 1}', "half a character"),
        (b"\xff", "no UTF-8"),
        (b"1" * 5000, "limit"),
    ],
)
def test_json_beyond_the_limits_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(content)


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as handle:
        handle.truncate(1 << 40)
    with at_most(4), pytest.raises(ValueError, match="1099511627776 bytes, more than"):
        read_bounded(path, limits.JSON_BYTES)


@pytest.mark.parametrize("name", ["records (Parquet)", "tensors (safetensors)", "text", "NiNo checkpoint (.pt)", "JSON",
                                  "probes", "learnt predictor", "configuration of a race"])  # fmt: skip
def test_a_pipe_or_a_folder_is_no_file(tmp_path: Path, name: str) -> None:
    reader = READERS[name]
    reader.write(tmp_path, reader.valid())
    path = tmp_path / reader.file
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=path.name):
        reader.read(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=path.stem):
        reader.read(tmp_path)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gz", "xz"])
def test_a_bomb_is_stopped_where_it_bursts(tmp_path: Path, pack: Any) -> None:
    path = tmp_path / f"bomb.txt.{'gz' if pack is gzip.compress else 'xz'}"
    path.write_bytes(pack(bytes(80 << 20)))
    assert path.stat().st_size < 1 << 20
    with at_most(150), pytest.raises(ValueError, match=f"it unpacks to more than {limits.PACKED_BYTES} bytes"):
        read_text(path)


def test_an_xz_file_cannot_ask_for_a_huge_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "a.xz"
    # Packed by hand: the size of the dictionary is one byte of the header, with a checksum of its own behind it.
    packed = lzma.compress(b"text", filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}])
    header = bytearray(packed[12:24])
    header[4] = 40
    header[8:12] = struct.pack("<I", zlib.crc32(bytes(header[:8])))
    path.write_bytes(packed[:12] + bytes(header) + packed[24:])
    with pytest.raises(ValueError, match=r"(?i)memory usage limit"):
        read_text(path)


def _parquet(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def _marked(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps({"sha256": hashlib.sha256(content).hexdigest()}))
    return path


def test_a_parquet_bomb_is_seen_in_its_page_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    points = [LossPoint(1, 1, 0.5)] * 300_000
    records.write(tmp_path / "p.parquet", LossPoint, points)
    assert (tmp_path / "p.parquet").stat().st_size < 20_000
    monkeypatch.setattr(limits, "PARQUET_ROWS", 299_999)
    with at_most(8), pytest.raises(Damaged, match="it has 300000 rows, more than 299999"):
        records.read(tmp_path / "p.parquet", LossPoint)
    schema = schema_of(LossPoint)
    content = _parquet(pa.Table.from_pylist([{"seed": 1, "step": 1, "heldout_loss": 0.5}] * 300_000, schema=schema),
                       use_dictionary=False, compression="zstd", data_page_version="2.0")  # fmt: skip
    assert len(content) < 200_000
    monkeypatch.setattr(limits, "PARQUET_ROWS", 300_000)
    monkeypatch.setattr(limits, "PARQUET_UNPACKED_BYTES", 300_000 * 24 - 1)
    with pytest.raises(Damaged, match="it unpacks to more than 7199999 bytes"):
        records.read(_marked(tmp_path / "q.parquet", content), LossPoint)
    monkeypatch.setattr(limits, "PARQUET_UNPACKED_BYTES", 300_000 * 25)
    assert len(records.read(tmp_path / "q.parquet", LossPoint)) == 300_000


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_page_headers_say_what_the_footer_says(version: str, codec: str, dictionary: bool) -> None:
    table = pa.table({"a": range(3000), "s": [f"x{i % 7}" for i in range(3000)], "f": [None, 0.5, 1.5] * 1000})
    content = _parquet(table, data_page_version=version, compression=codec, use_dictionary=dictionary,
                       row_group_size=1000, data_page_size=512)  # fmt: skip
    check_parquet(content, opened(content, table.schema).metadata)


def test_a_long_text_in_a_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    records.write(path, records.Prediction, [row(records.Prediction, predictor="x" * 65_537)])
    with pytest.raises(Damaged, match="predictor holds a text of 65537 bytes, more than 65536"):
        records.read(path, records.Prediction)


def test_a_footer_that_would_fill_memory_is_refused(tmp_path: Path) -> None:
    path = _marked(tmp_path / "p.parquet", b"PAR1" + bytes(100) + b"\xff\xff\xff\x7f" + b"PAR1")
    with pytest.raises(Damaged, match="its footer would have 2147483647 bytes"):
        records.read(path, LossPoint)


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, "begins at byte 4, where 8 is the next free one"),
        ({"a": F32, "b": {**F32, "data_offsets": [12, 20]}}, "begins at byte 12"),
        ({"a": F32}, "end at byte 8 of 16"),
        ({"a": {**F32, "shape": [2**32, 2**32]}}, "which its shape does not need"),
        ({"a": {**F32, "shape": [2**64]}}, "a shape or offsets that are none"),
        ({"a": {**F32, "data_offsets": [-8, 0]}}, "a shape or offsets that are none"),
        ({"a": {**F32, "data_offsets": [0, 8.0]}}, "a shape or offsets that are none"),
        ({"a": {**F32, "dtype": "X"}}, "of the unknown type 'X'"),
        ({"a": 1}, "something else than dtype, shape and data_offsets"),
        ({"__metadata__": {"a": 1}}, "metadata that are no texts"),
        ([], "no mapping"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, said: str) -> None:
    told = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(told).to_bytes(8, "little") + told + bytes(16))
    with pytest.raises(ValueError, match=said):
        check_safetensors(tmp_path / "x.safetensors")


def test_a_huge_header_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as handle:
        handle.write((100 << 20).to_bytes(8, "little"))
        handle.truncate(101 << 20)
    with at_most(4), pytest.raises(ValueError, match=f"104857600 bytes, more than {limits.HEADER_BYTES}"):
        check_safetensors(path)


class Runs:
    """A pickle that runs a command where it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("name", ["NiNo checkpoint (.pt)", "state of a callback (.pt)"])
@pytest.mark.parametrize("way", ["torch", "legacy", "plain"])
def test_a_pickle_is_never_run(tmp_path: Path, name: str, way: str) -> None:
    reader, out, mark = READERS[name], io.BytesIO(), tmp_path / "owned"
    if way == "plain":
        out.write(pickle.dumps(Runs(mark)))
    else:
        torch.save({"state_dict": Runs(mark)}, out, _use_new_zipfile_serialization=way == "torch")
    reader.write(tmp_path, out.getvalue())
    with pytest.raises(ValueError, match=r"code in it is never run"):
        reader.read(tmp_path)
    assert not mark.exists()


def test_a_packed_member_is_no_tensor_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(64 << 20))
    with pytest.raises(ValueError, match="'archive/data/0' is packed"):
        check_torch_file(path)


@pytest.mark.parametrize("shard", ["../../secret.safetensors", "/etc/passwd", "a/b.safetensors", "", ".hidden", "a\0b"])
def test_an_index_names_files_of_its_own_folder_only(tmp_path: Path, shard: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ValueError, match=r"model.safetensors.index.json: it names .* no file of this folder"):
        check_folder(tmp_path)
    assert not plain_name(shard)


def test_code_beside_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["code.Mine", None]}, "tokenizer_class": "Mine"})
    )
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "code.Mine"}, "model_type": "mine"}))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path))
    assert not (tmp_path / "owned").exists()
