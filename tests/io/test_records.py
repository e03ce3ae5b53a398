"""Records: what was written is what is read, and anything else is refused by name."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from killed import killed_at
from leapverify.errors import Damaged
from leapverify.io import records, storage
from leapverify.io.records import LossPoint, SeedMeasure
from leapverify.io.storage import replace_marked

AGAIN = "give the same study command again"
OLD = [LossPoint(42, step, 1 / (step + 1)) for step in range(0, 300, 5)]
NEW = [LossPoint(43, step, 2 / (step + 1)) for step in range(0, 400, 5)]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "records" / "curve.parquet"
    records.write(path, LossPoint, OLD)
    return path


def refused(path: Path, text: str = "") -> None:
    with pytest.raises(Damaged, match=rf"^{re.escape(str(path))} .*{text}.*{AGAIN}$"):
        records.read(path, LossPoint)


@pytest.mark.parametrize("rows", [OLD, []])
def test_what_was_written_is_what_is_read(tmp_path: Path, rows: list[LossPoint]) -> None:
    path = tmp_path / "curve.parquet"
    records.write(path, LossPoint, iter(rows))
    assert records.read(path, LossPoint) == rows
    mark = json.loads(path.with_suffix(".json").read_text())
    assert len(mark.pop("content_sha256")) == 64
    assert mark.pop("place") == "curve.parquet"
    assert mark == {"sha256": storage.sha256_of(path), "rows": len(rows), "schema": "LossPoint/1"}
    assert sorted(item.name for item in tmp_path.iterdir()) == ["curve.json", "curve.parquet"]


def test_the_file_can_be_read_without_this_package(saved: Path) -> None:
    assert pd.read_parquet(saved).to_dict("records") == [dataclasses.asdict(row) for row in OLD]


def test_a_flipped_byte_is_refused_wherever_it_lies(saved: Path) -> None:
    content = saved.read_bytes()
    chance = random.Random(0)
    ends = {*range(8), *range(len(content) - 8, len(content))}
    for position in {*ends, *(chance.randrange(len(content)) for _ in range(200))}:
        damaged = bytearray(content)
        damaged[position] ^= 1 << chance.randrange(8)
        saved.write_bytes(damaged)
        refused(saved, "is damaged: its sha256 is not the one that curve.json gives")
    saved.write_bytes(content)
    assert records.read(saved, LossPoint) == OLD


def test_a_flipped_byte_in_the_mark_never_gives_other_rows(saved: Path) -> None:
    mark = saved.with_suffix(".json")
    content = mark.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x81
        mark.write_bytes(damaged)
        refused(saved)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(saved: Path, length: int) -> None:
    saved.write_bytes(saved.read_bytes()[:length])
    refused(saved, "is damaged")


def test_a_missing_file_or_mark_is_refused(saved: Path) -> None:
    saved.with_suffix(".json").unlink()
    refused(saved, "is not complete: its mark curve.json is missing or unreadable")
    saved.unlink()
    refused(saved, "is missing")
    saved.mkdir()
    refused(saved, "cannot be read")


def test_another_record_is_refused(saved: Path) -> None:
    records.write(saved, SeedMeasure, [])
    refused(saved, "is needed: it was written by another version; with another --out, ")


def test_another_schema_version_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(records, "SCHEMA_VERSION", 0)
        records.write(saved, LossPoint, OLD)
    refused(saved, "holds LossPoint/0")


@pytest.mark.parametrize("name", [b"LossPoint/1", b"\xff\xfe"])
def test_other_columns_under_any_name_are_refused(saved: Path, name: bytes) -> None:
    table = pa.table({"seed": ["x"], "step": [1], "heldout_loss": [1.0]}).replace_schema_metadata(
        {"leapverify.schema": name}
    )
    with replace_marked(saved) as handle:
        pq.write_table(table, handle)
    refused(saved, "where LossPoint/1 is needed")


def test_a_file_that_is_no_parquet_is_refused(saved: Path) -> None:
    with replace_marked(saved) as handle:
        handle.write(b"PAR1 something else PAR1")
    refused(saved, "is damaged: it is no Parquet file")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_killed_anywhere_over_older_rows_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    seen, call, died = set(), 0, True
    while died:
        call += 1
        path = tmp_path / str(call) / "curve.parquet"
        records.write(path, LossPoint, OLD)
        died = killed_at(call, lambda path=path: records.write(path, LossPoint, NEW))  # type: ignore[misc]
        found = records.read(path, LossPoint)
        assert found in (OLD, NEW)
        seen.add((died, found == NEW))
        records.write(path, LossPoint, NEW[:3])
        assert records.read(path, LossPoint) == NEW[:3]
    assert call > 5
    assert {(True, False), (True, True), (False, True)} <= seen


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_killed_anywhere_in_a_first_write_leaves_no_file_or_a_whole_one(tmp_path: Path) -> None:
    call, died = 0, True
    while died:
        call += 1
        path = tmp_path / str(call) / "curve.parquet"
        died = killed_at(call, lambda path=path: records.write(path, LossPoint, NEW))  # type: ignore[misc]
        if path.exists():
            assert records.read(path, LossPoint) == NEW
        else:
            assert died
            refused(path, "is missing")
    assert call > 5
