"""The manifest: every file, what was written, and never what was damaged before."""

from __future__ import annotations

from pathlib import Path

import pytest

from killed import killed_at
from leapverify.errors import Damaged
from leapverify.io.manifest import NAME, Manifest, files_of, read_manifest, runs_below
from leapverify.io.storage import read_json, save_tensors, sha256_of, write_json, write_text


@pytest.fixture
def run(tmp_path: Path) -> Path:
    from torch import ones

    write_text(tmp_path / "config.yaml", "a: 1\n")
    write_text(tmp_path / "tables" / "one.csv", "1\n")
    save_tensors(tmp_path / "seed-1" / "snapshots" / "step-000010.safetensors", {"a": ones(3)}, step=10)
    write_json(tmp_path / "done.json", {})
    (tmp_path / ".lock").touch()
    write_text(tmp_path / "ladder" / "x" / "config.yaml", "a: 2\n")
    write_text(tmp_path / "race" / "config.yaml", "a: 2\n")
    Manifest(tmp_path).write()
    return tmp_path


def test_it_lists_every_file_but_those_of_run_folders_below(run: Path) -> None:
    lines = read_manifest(run)
    assert lines is not None
    assert list(lines) == files_of(run)
    assert list(lines) == [
        "config.yaml",
        "race/config.yaml",
        "seed-1/snapshots/step-000010.json",
        "seed-1/snapshots/step-000010.safetensors",
        "tables/one.csv",
    ]
    for name, line in lines.items():
        assert line == {"bytes": (run / name).stat().st_size, "sha256": sha256_of(run / name)}
    assert list(runs_below(run)) == [run / "ladder" / "x"]


def test_it_is_gone_while_somebody_writes(run: Path) -> None:
    manifest = Manifest(run)
    assert read_manifest(run) is None
    manifest.write()
    assert read_manifest(run)


def test_what_was_replaced_is_listed_anew_and_what_was_damaged_before_stays_damaged(run: Path) -> None:
    before = read_manifest(run)
    assert before is not None
    (run / "config.yaml").write_text("a: 3\n")
    manifest = Manifest(run)
    write_text(run / "tables" / "one.csv", "2\n")
    write_text(run / "tables" / "two.csv", "2\n")
    manifest.write()
    after = read_manifest(run)
    assert after is not None
    assert after["config.yaml"] == before["config.yaml"]
    assert after["tables/one.csv"]["sha256"] == after["tables/two.csv"]["sha256"] == sha256_of(run / "tables/two.csv")


def test_the_sums_of_tensors_are_those_that_their_marks_name(run: Path) -> None:
    name = "seed-1/snapshots/step-000010.safetensors"
    digest = sha256_of(run / name)
    (run / NAME).unlink()
    with (run / name).open("r+b") as handle:
        handle.seek(-1, 2)
        handle.write(b"\x01")
    Manifest(run).write()
    assert (read_manifest(run) or {})[name]["sha256"] == digest != sha256_of(run / name)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 9, "files": {}}', '{"format": 1, "files": {"a": 1}}'])
def test_what_is_no_manifest_is_refused_and_written_anew(run: Path, content: str) -> None:
    (run / NAME).write_text(content)
    with pytest.raises(Damaged, match=r"manifest\.json is (damaged|no manifest of this version)"):
        read_manifest(run)
    Manifest(run).write()
    assert read_manifest(run)


@pytest.mark.failure(1)
def test_killed_anywhere_it_is_whole_or_absent(run: Path) -> None:
    whole, call, died = read_json(run / NAME), 0, True
    while died:
        call += 1
        died = killed_at(call, Manifest(run).write)
        assert not (run / NAME).exists() or read_json(run / NAME) == whole
    assert call > 2
