"""Files that ranks write together: read by any number of them, and refused by name where they are not whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint.hf_storage
import torch.distributed.fsdp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from leapverify.core.partition import empty_part, held_rows
from leapverify.core.ranks import ranks_of_world
from leapverify.core.shards import local
from leapverify.errors import Damaged
from leapverify.io.storage import read_json, save_tensors, write_json
from leapverify.study.folder import keep_only
from leapverify.train import sharded_checkpoint as sharded
from leapverify.train.sharded_checkpoint import load_parts, save_parts
from leapverify.train.sharded_folder import MARK, read_tensors, sweep_parts
from leapverify.train.state import load_snapshot, snapshot_path, snapshot_steps
from processes import run_ranks
from shared_runs import made_once

WHOLE = {"wide": torch.arange(21.0).view(7, 3), "one": torch.tensor([[4.0]]), "narrow": torch.arange(2).to(torch.int64)}
PLAIN = {"count": torch.tensor(5.0), "buffer": torch.arange(4)}


def _write(path: Path) -> None:
    ranks = ranks_of_world()
    sharded.meeting_group()
    mesh = init_device_mesh("cpu", (ranks.size,))
    spread = {name: distribute_tensor(each, mesh, [Shard(0)]) for name, each in WHOLE.items()}
    save_parts(path, {**spread, **PLAIN, f"own-{ranks.rank}": torch.full((2,), ranks.rank)}, ranks, step=10)


@pytest.fixture
def path(shared: Path, tmp_path: Path) -> Path:
    """What three ranks wrote of step 10, copied."""
    made = made_once(shared / "three-ranks", lambda folder: run_ranks(3, _write, snapshot_path(folder, 10)))
    return snapshot_path(shutil.copytree(made, tmp_path / "snapshots"), 10)


def test_one_process_reads_whole_what_three_ranks_wrote(path: Path) -> None:
    tensors, about = read_tensors(path)
    assert sorted(tensors) == sorted([*WHOLE, *PLAIN, "own-0", "own-1", "own-2"])
    for name, each in (WHOLE | PLAIN).items():
        assert torch.equal(tensors[name], each), name
        assert tensors[name].dtype == each.dtype, name
    assert torch.equal(load_snapshot(path.parent, 10)["own-2"], torch.full((2,), 2))
    assert (about["step"], about["ranks"], len(about["files"])) == (10, 3, 3)
    assert snapshot_steps(path.parent) == [10]


def _read(path: Path) -> dict[str, Any]:
    ranks = ranks_of_world()
    mesh = init_device_mesh("cpu", (ranks.size,))
    like = {name: distribute_tensor(torch.zeros_like(each), mesh, [Shard(0)]) for name, each in WHOLE.items()}
    wanted = {name: empty_part(each, each.dtype) for name, each in like.items()}
    plain = {name: torch.zeros_like(each) for name, each in PLAIN.items()}
    reader = load_parts(path, ranks)
    reader.fill({**wanted, **plain})
    parts = all(torch.equal(local(wanted[name]), each[held_rows(like[name])]) for name, each in WHOLE.items())
    return {"parts": parts, "plain": all(torch.equal(plain[name], each) for name, each in PLAIN.items())}


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_ranks_reads_its_parts(path: Path, size: int) -> None:
    assert run_ranks(size, _read, path) == [{"parts": True, "plain": True}] * size


def test_ranks_read_their_parts_of_what_one_process_wrote(tmp_path: Path) -> None:
    save_tensors(tmp_path / "step-000010.safetensors", {**WHOLE, **PLAIN})
    assert run_ranks(2, _read, tmp_path / "step-000010.safetensors") == [{"parts": True, "plain": True}] * 2


def test_what_ranks_write_takes_the_place_of_one_process_s_file(tmp_path: Path) -> None:
    path = tmp_path / "step-000010.safetensors"
    save_tensors(path, {"older": torch.ones(1)})
    run_ranks(2, _write, path)
    assert [each.name for each in tmp_path.iterdir()] == ["step-000010"]
    assert "older" not in read_tensors(path)[0]


def _second(folder: Path) -> Path:
    return folder / "shard-00002-model-00001-of-00001.safetensors"


def _alter(folder: Path) -> None:
    blob = bytearray(_second(folder).read_bytes())
    blob[-1] ^= 1
    _second(folder).write_bytes(blob)


def _truncate(folder: Path) -> None:
    _second(folder).write_bytes(_second(folder).read_bytes()[:-3])


def _stale(folder: Path) -> None:
    shutil.copy(_second(folder), folder / "shard-00004-model-00001-of-00001.safetensors")


DAMAGES = [
    (_alter, "shard-00002-model-00001-of-00001.safetensors is damaged"),
    (_truncate, "shard-00002-model-00001-of-00001.safetensors is damaged"),
    (lambda folder: _second(folder).unlink(), "shard-00002-model-00001-of-00001.safetensors is missing, of 3 files"),
    (_stale, f"shard-00004-model-00001-of-00001.safetensors is not one of the files that {MARK} names"),
    (lambda folder: (folder / MARK).write_text("{}"), f"{MARK} names no files"),
]


@pytest.mark.failure(2, 3)
@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_a_file_that_is_altered_missing_or_left_over_is_named(path: Path, damage: Any, words: str) -> None:
    damage(path.with_suffix(""))
    with pytest.raises(Damaged, match=words.replace(".", r"\.")):
        read_tensors(path)

    def said() -> str:
        with pytest.raises(Damaged) as caught:
            load_parts(path, ranks_of_world())
        return str(caught.value)

    found = run_ranks(2, said)
    assert found[0] == found[1]
    assert words in found[0]


@pytest.mark.failure(1)
@pytest.mark.parametrize("place", ["one rank before its file", "before the hashes", "before the mark"])
def test_ranks_killed_in_a_save_leave_the_older_step_and_nothing_that_reads_as_whole(
    path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        os._exit(9)

    real = sharded._write

    def one_dies(folder: Path, tensors: Any) -> None:
        if torch.distributed.get_rank() == 1:
            os._exit(9)
        real(folder, tensors)

    name = {"one rank before its file": "_write", "before the hashes": "sha256_of", "before the mark": "write_json"}
    monkeypatch.setattr(sharded, name[place], one_dies if place.startswith("one") else die)
    later = snapshot_path(path.parent, 20)
    with pytest.raises(AssertionError, match="exit code 9"):
        run_ranks(2, _write, later)
    monkeypatch.undo()
    assert snapshot_steps(path.parent) == [10]
    with pytest.raises(Damaged):
        read_tensors(later)
    sweep_parts(path.parent)
    assert not later.with_suffix("").exists()
    assert torch.equal(load_snapshot(path.parent, 10)["wide"], WHOLE["wide"])


def test_only_the_steps_that_are_needed_stay(path: Path) -> None:
    shutil.copytree(path.with_suffix(""), path.parent / "step-000020")
    keep_only(path.parent, [20])
    assert [each.name for each in path.parent.iterdir()] == ["step-000020"]


@pytest.mark.failure(15)
def test_a_mark_that_leads_out_of_its_folder_is_refused(path: Path) -> None:
    folder = path.with_suffix("")
    mark = read_json(folder / MARK)
    mark["files"]["../../../outside.safetensors"] = "0" * 64
    write_json(folder / MARK, mark)
    with pytest.raises(Damaged, match="is missing"):
        read_tensors(path)
