import errno
import os
import re
import resource
import signal
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch

from killed import killed_at
from leapverify.errors import Damaged, NotWritten
from leapverify.io import storage
from leapverify.io.manifest import sweep_leftovers
from leapverify.io.storage import (
    load_tensors,
    read_json,
    read_sealed,
    replace_file,
    save_tensors,
    write_json,
    write_sealed,
    write_text,
)

OLD = {"a": torch.arange(5.0), "b": torch.ones(2, 3, dtype=torch.bfloat16), "c": torch.tensor(7)}
NEW = {"a": torch.arange(5.0) + 100, "b": torch.zeros(2, 3, dtype=torch.bfloat16), "c": torch.tensor(8)}


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(
        found[name].dtype == wanted[name].dtype and torch.equal(found[name], wanted[name]) for name in wanted
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "step-000050.safetensors"
    save_tensors(path, OLD, step=50, note="first")
    return path


def test_what_was_saved_is_what_is_loaded(saved: Path) -> None:
    tensors, about = load_tensors(saved)
    assert same(tensors, OLD)
    assert about == {"step": 50, "note": "first", "sha256": storage.sha256_of(saved)}


def test_the_files_can_be_read_without_this_package(saved: Path) -> None:
    assert same(safetensors.torch.load_file(saved), OLD)


def test_nothing_but_the_pair_is_left_in_the_folder(saved: Path) -> None:
    save_tensors(saved, NEW, step=100)
    assert sorted(path.name for path in saved.parent.iterdir()) == [
        "step-000050.json",
        "step-000050.safetensors",
    ]


def test_a_second_save_replaces_the_first(saved: Path) -> None:
    save_tensors(saved, NEW, step=100)
    tensors, about = load_tensors(saved)
    assert same(tensors, NEW)
    assert about == {"step": 100, "sha256": storage.sha256_of(saved)}


def test_files_are_as_readable_as_any_other(saved: Path) -> None:
    plain = saved.with_name("plain")
    plain.touch()
    for path in (saved, saved.with_suffix(".json")):
        assert path.stat().st_mode == plain.stat().st_mode


def test_any_flipped_byte_is_refused_by_name(saved: Path) -> None:
    content = saved.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        saved.write_bytes(damaged)
        with pytest.raises(Damaged, match=rf"{re.escape(str(saved))} is damaged: its sha256 is not the one"):
            load_tensors(saved)


@pytest.mark.parametrize("length", [0, 7, -1])
def test_a_truncated_file_is_refused_by_name(saved: Path, length: int) -> None:
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(Damaged, match=re.escape(str(saved))):
        load_tensors(saved)


def test_a_missing_mark_means_an_unfinished_write(saved: Path) -> None:
    saved.with_suffix(".json").unlink()
    with pytest.raises(Damaged, match=r"is not complete: its mark step-000050\.json is missing or unreadable"):
        load_tensors(saved)


@pytest.mark.parametrize("mark", ["", "{", "[]", "{}", '"sha256"'])
def test_an_unreadable_mark_is_refused(saved: Path, mark: str) -> None:
    saved.with_suffix(".json").write_text(mark)
    with pytest.raises(Damaged, match="is not complete"):
        load_tensors(saved)


def test_a_missing_file_is_refused(saved: Path) -> None:
    saved.unlink()
    with pytest.raises(Damaged, match="cannot be read"):
        load_tensors(saved)


def test_a_file_that_is_no_safetensors_is_refused(saved: Path) -> None:
    saved.write_bytes(b"something else")
    write_json(saved.with_suffix(".json"), {"sha256": storage.sha256_of(saved)})
    with pytest.raises(Damaged, match="is no safetensors file"):
        load_tensors(saved)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_killed_anywhere_over_an_older_pair_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    seen, call, died = set(), 0, True
    while died:
        call += 1
        path = tmp_path / str(call) / "state.safetensors"
        save_tensors(path, OLD, step=1)
        died = killed_at(call, lambda path=path: save_tensors(path, NEW, step=2))  # type: ignore[misc]
        tensors, about = load_tensors(path)
        assert same(tensors, OLD if about["step"] == 1 else NEW)
        seen.add((died, about["step"]))
        save_tensors(path, NEW, step=3)
        assert load_tensors(path)[1]["step"] == 3
    assert call > 5
    assert {(True, 1), (False, 2)} <= seen


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_killed_anywhere_in_a_first_write_leaves_nothing_that_loads_wrongly(tmp_path: Path) -> None:
    call, died = 0, True
    while died:
        call += 1
        path = tmp_path / str(call) / "state.safetensors"
        died = killed_at(call, lambda path=path: save_tensors(path, NEW, step=2))  # type: ignore[misc]
        try:
            assert same(load_tensors(path)[0], NEW)
        except Damaged:
            assert died
            assert not path.exists(), "a file without a mark, or before its mark"
        sweep_leftovers(path.parent)
        assert {item.name for item in path.parent.iterdir()} <= {"state.safetensors", "state.json"}
    assert call > 5


def test_an_exception_inside_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "text"
    write_text(path, "old")
    with pytest.raises(TypeError), replace_file(path) as handle:
        handle.writelines([b"new", "no bytes"])  # type: ignore[list-item]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "the disk is full: free some space or name another folder"),
        (errno.EROFS, "the file system is read-only: name another folder"),
        (errno.EACCES, "permission is denied: name a folder that you may write"),
    ],
)
def test_a_disk_that_takes_no_more_gives_one_sentence(
    saved: Path, monkeypatch: pytest.MonkeyPatch, place: str, number: int, text: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, place, refuse)
        with pytest.raises(NotWritten) as caught:
            save_tensors(saved, NEW, step=100)
    assert re.fullmatch(rf"{re.escape(str(saved.parent))}/[\w.-]+ cannot be written: {text}", str(caught.value))
    assert same(load_tensors(saved)[0], OLD)


def test_a_disk_that_is_full_for_safetensors_gives_the_same_sentence(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", refuse)
        with pytest.raises(NotWritten, match="the disk is full: free some space"):
            save_tensors(saved, NEW, step=100)
    assert same(load_tensors(saved)[0], OLD)
    assert len(list(saved.parent.iterdir())) == 2


def test_a_file_in_place_of_the_folder_gives_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotWritten, match="a file lies where a folder is needed: name another folder"):
        write_text(tmp_path / "file" / "name", "text")


def test_other_errors_of_the_system_are_not_dressed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EBADF, "broken")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="broken"):
        write_text(tmp_path / "name", "text")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"\0"])
def test_a_file_that_is_no_json_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "thresholds.json"
    path.write_bytes(content)
    with pytest.raises(Damaged, match=rf"{re.escape(str(path))} is damaged: it is no JSON .* the same command again"):
        read_json(path)


def test_a_json_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match=r"none\.json is missing"):
        read_json(tmp_path / "none.json")
    with pytest.raises(Damaged, match="cannot be read"):
        read_json(tmp_path)


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    value = {"a": [1, None, "µ"], "b": {"c": 0.1}}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value


@pytest.mark.failure(2)
def test_a_json_file_is_refused_whatever_bit_of_it_is_flipped(tmp_path: Path) -> None:
    path, value = tmp_path / "value.json", {"a": [1, None, "µ"], "b": {"c": 1e-05}, "sha256": "0" * 64}
    write_json(path, value)
    content, as_it_was = path.read_bytes(), 0
    for position in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            assert read_json(path) == value
            as_it_was += 1
        except Damaged:
            continue
    # 1E-05 is 1e-05, and the escape of a letter may be written in capitals.
    assert as_it_was == 2


def test_json_without_a_sum_of_its_own_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    path.write_text('{"sha256": "' + "0" * 64 + '", "step": 50}')
    assert read_json(path) == {"sha256": "0" * 64, "step": 50}


@pytest.mark.failure(2, 3)
def test_text_with_its_sum_is_refused_when_altered_or_cut(tmp_path: Path) -> None:
    path, text = tmp_path / "config.yaml", "seeds:\n- 42\nlr: 0.001\n"
    write_sealed(path, text)
    assert read_sealed(path, "again") == text
    content = path.read_bytes()
    begin = content.index(b"\n") - 64
    for position in range(begin, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(Damaged, match=rf"^{re.escape(str(path))} is damaged: .*; again$"):
            read_sealed(path, "again")
    for length in range(begin, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(Damaged, match="is not what was written; again"):
            read_sealed(path, "again")
    path.write_text(text)
    assert read_sealed(path, "again") == text, "earlier versions wrote no sum"


@pytest.mark.failure(2)
def test_a_file_of_another_place_is_refused(tmp_path: Path) -> None:
    mine, yours = (tmp_path / f"seed-{seed}" / "snapshots" / "step-000050.safetensors" for seed in (1, 2))
    save_tensors(yours, NEW, step=50)
    mine.parent.mkdir(parents=True)
    for suffix in (".safetensors", ".json"):
        mine.with_suffix(suffix).write_bytes(yours.with_suffix(suffix).read_bytes())
    with pytest.raises(
        Damaged, match=r"is another file, which was written as seed-2/snapshots/step-000050\.safetensors"
    ):
        load_tensors(mine)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "seed-2").rename(moved / "seed-2")
    assert same(load_tensors(moved / "seed-2" / "snapshots" / "step-000050.safetensors")[0], NEW)


def test_leftovers_are_swept_and_nothing_else(tmp_path: Path) -> None:
    keep = [
        ".lock",
        ".env.local",
        ".tmp",
        ".tmpAbC123.keep",
        ".notes.0123456789AB",
        "data.0123456789ab",
        "own.safetensors",
        "step-x.safetensors",
        "seed-1/step-000050.safetensors",
        "seed-1/step-000050.json",
        "seed-1/step-000200.json",
    ]
    go = [
        ".done.json.0123456789ab",
        ".tmpAbC123",
        "seed-1/.checkpoints.parquet.abcdef012345",
        "seed-1/deep/er/step-000100.safetensors",
    ]
    for name in (*keep, *go):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    elsewhere = tmp_path / "elsewhere" / ".x.0123456789ab"
    elsewhere.parent.mkdir()
    elsewhere.touch()
    run = tmp_path / "seed-1"
    (run / "link").symlink_to(elsewhere.parent, target_is_directory=True)
    (run / ".link.0123456789ab").symlink_to(elsewhere)
    assert sorted(sweep_leftovers(run)) == sorted(tmp_path / name for name in go[2:])
    assert elsewhere.exists()
    assert (run / ".link.0123456789ab").is_symlink()
    assert {*sweep_leftovers(tmp_path)} == {*(tmp_path / name for name in go[:2]), elsewhere}
    assert all((tmp_path / name).exists() for name in keep)


def test_a_file_that_a_kill_left_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "text"
    assert killed_at(1, lambda: write_text(path, "new"))
    (left,) = tmp_path.iterdir()
    assert sweep_leftovers(tmp_path) == [left]
    assert not list(tmp_path.iterdir())


def test_safetensors_own_temporary_files_have_the_name_that_is_swept(tmp_path: Path) -> None:
    # It names them itself. Should it change the pattern, files as large as the model would stay after a kill.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # a kill in mid-write
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
            safetensors.torch.save_file({"a": torch.ones(1 << 20)}, tmp_path / "a.safetensors")
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGXFSZ
    assert len(list(tmp_path.iterdir())) == len(sweep_leftovers(tmp_path)) == 1
