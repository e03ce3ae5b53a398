"""Whatever happens to any file of a run folder, its name is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_runs import flip, problems, put
from leapverify.audit import audit
from leapverify.audit.files import check_files
from leapverify.io.manifest import NAME, files_of
from leapverify.io.storage import read_json, write_json

LAST = ("manifest.json", "done.json")


def named(run: Path) -> set[str]:
    return {each.path for each in check_files(run).findings if each.problem}


def is_named(name: str, found: set[str]) -> bool:
    """Its own name or, of a mark and what it marks, the other's."""
    return bool(found & {name, name.replace(".json", ".safetensors"), name.replace(".json", ".parquet")})


def test_a_healthy_run_is_silent(healthy: Path) -> None:
    assert audit(healthy) == []


@pytest.mark.failure(2)
def test_one_flipped_bit_in_any_file_is_named(copied: Callable[[], Path], healthy: Path) -> None:
    run = copied()
    for name in [*files_of(healthy), *LAST]:
        flip(run / name)
        found = named(run)
        assert found == {name} if name != NAME else name in found, (name, found)
        put(run / name, (healthy / name).read_bytes())
    assert named(run) == set()


@pytest.mark.failure(3)
@pytest.mark.parametrize("how", ["cut", "emptied", "deleted"])
def test_a_truncated_or_missing_file_is_named(copied: Callable[[], Path], healthy: Path, how: str) -> None:
    run = copied()
    kinds = {(Path(name).parent.name, Path(name).suffix): name for name in files_of(healthy)}
    for name in [*kinds.values(), *LAST]:
        content = (healthy / name).read_bytes()
        if how == "deleted":
            (run / name).unlink()
        else:
            put(run / name, content[: len(content) // 3] if how == "cut" else b"")
        assert is_named(name, named(run)), name
        if (run / name).exists():
            (run / name).unlink()
        (run / name).write_bytes(content)
    assert named(run) == set()


@pytest.mark.failure(2)
def test_without_a_manifest_what_is_read_back_still_carries_its_sum(copied: Callable[[], Path], healthy: Path) -> None:
    run = copied()
    (run / NAME).unlink()
    (run / "done.json").unlink()
    assert problems(run) == []
    for name in files_of(healthy):
        if name.startswith(("tables/", "figures/")) or name in ("report.html", "memory.txt"):
            continue
        flip(run / name)
        assert is_named(name, named(run)), name
        put(run / name, (healthy / name).read_bytes())


@pytest.mark.failure(3)
def test_files_that_nobody_wrote_and_files_of_killed_writers_are_named(run: Path) -> None:
    strange = {
        "seed-42/optimizer/step-000040.rank-3.bin": "is not in the manifest",
        ".config.yaml.0123456789ab": "a killed writer left",
        "seed-42/snapshots/.tmpAbC123": "a killed writer left",
        "seed-42/snapshots/step-000045.safetensors": "",
    }
    for name in strange:
        (run / name).write_bytes(b"stale")
    found = {each.path: each.text for each in audit(run)}
    for name, text in strange.items():
        assert text in found[name]
    (run / "seed-42/snapshots/step-000045.safetensors").unlink()
    write_json(run / "seed-42/snapshots/step-000045.json", {"sha256": "0", "place": "x"})
    assert "seed-42/snapshots/step-000045.json" in {each.path for each in audit(run)}


@pytest.mark.failure(3)
def test_parts_that_another_number_of_processes_left_are_named(run: Path) -> None:
    from safetensors.torch import save_file
    from torch import ones

    from leapverify.io.storage import sha256_of

    (run / NAME).unlink()
    (run / "done.json").unlink()
    folder = run / "seed-42" / "optimizer" / "step-000040"
    folder.mkdir()
    parts = [folder / f"shard-0000{number}-model.safetensors" for number in (1, 2, 3)]
    for part in parts:
        save_file({"a": ones(2)}, part)
    mark = {"ranks": 2, "place": "seed-42/optimizer/step-000040", "files": {p.name: sha256_of(p) for p in parts[:2]}}
    write_json(folder / "shards.json", mark)
    (stale,) = problems(run)
    assert stale.path == f"seed-42/optimizer/step-000040/{parts[2].name}"
    assert "another number of processes left it" in stale.text
    parts[2].unlink()
    assert problems(run) == []
    flip(parts[0])
    assert "its sha256 is not the one that shards.json gives" in problems(run)[0].text
    parts[0].unlink()
    assert "is missing, of 2 that belong together" in problems(run)[0].text


@pytest.mark.failure(2)
@pytest.mark.parametrize("folder", ["snapshots", "optimizer", "records"])
def test_files_of_one_seed_in_the_place_of_anothers_are_named(run: Path, folder: str) -> None:
    (run / NAME).unlink()
    (run / "done.json").unlink()
    mine, yours = (run / f"seed-{seed}" / folder for seed in (42, 43))
    kept = run.parent / "kept"
    mine.rename(kept)
    yours.rename(mine)
    kept.rename(yours)
    assert any("was written as seed-43/" in each.text and each.path.startswith("seed-42/") for each in problems(run))


def test_a_folder_of_an_earlier_version_is_read_with_a_note(healthy: Path, tmp_path: Path) -> None:
    run = tmp_path / "old"
    shutil.copytree(healthy, run)
    for path in run.rglob("*.json"):
        value = None if path.parent.name == "figures" else read_json(path)
        if isinstance(value, dict):
            value.pop("place", None)
            import json

            path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.partition("\n")[2])
    (run / NAME).unlink()
    (note,) = audit(run)
    assert not note.problem
    assert "written by an earlier version" in note.text
    flip(run / "seed-42" / "records" / "curve.parquet")
    assert [each.path for each in problems(run)] == ["seed-42/records/curve.parquet"]
