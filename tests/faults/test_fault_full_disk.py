"""A disk that takes no more: one sentence, exit code 1, what was saved stays, and the same command goes on."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from faulty_disk import Disk, raises
from leap_loops import fingerprint_of, make
from leapverify import load_study, run_study
from leapverify.cli.main import main
from leapverify.errors import NotWritten
from leapverify.report import build_report
from leapverify.runs import StudyError
from leapverify.study.folder import keep_only
from marks import slow
from micro import MICRO, same_numbers

pytestmark = [pytest.mark.failure(4), pytest.mark.skipif(sys.platform != "linux", reason="mounts and reads /proc")]
SETTINGS = {**MICRO, "training.steps": 30, "sweep.horizons": [5], "sweep.predictors": ["hold"], "cascade.kinds": []}
SAID = {
    errno.ENOSPC: "the disk is full: free some space or name another folder",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only: name another folder",
    errno.EIO: "the disk has a fault: look at it, and name another folder",
    errno.EFBIG: "raise the limit",
}


@pytest.fixture(scope="module")
def settings(text):
    return {**SETTINGS, "data.source": f"text:{text}"}


@pytest.fixture(scope="module")
def unbroken(settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("full") / "run"
    out.mkdir()
    with Disk(out).watched() as disk:
        study = run_study("tiny", out, device="cpu", settings=settings)
    return study, disk.kinds


@pytest.mark.parametrize(
    ("number", "kind", "share"),
    [
        (errno.ENOSPC, "write", 0.3),
        slow(errno.EDQUOT, "safetensors", 0.8),
        slow(errno.EROFS, "mkdir", 0.5),
        (errno.EIO, "fsync", 0.2),
        slow(errno.EROFS, "rename", 0.5),
        slow(errno.EFBIG, "write", 0.95),
    ],
)
def test_one_refusal_anywhere_is_one_sentence_and_costs_nothing(unbroken, settings, tmp_path, number, kind, share):
    study, kinds = unbroken
    places = [at for at, each in enumerate(kinds, 1) if each == kind]
    disk = Disk(tmp_path, places[int(share * (len(places) - 1))], raises(number))
    with disk.watched(), pytest.raises((StudyError, NotWritten)) as caught:
        run_study("tiny", tmp_path, device="cpu", settings=settings)
    assert SAID[number] in str(caught.value)
    assert "\n" not in str(caught.value)
    same_numbers(run_study("tiny", tmp_path, device="cpu", settings=settings), study)


class Mounted:
    """A file system in memory, of so many bytes."""

    def __init__(self, place: Path, nbytes: int) -> None:
        self.place, self._libc = place, ctypes.CDLL(None, use_errno=True)
        self._mount(0, f"size={nbytes}")

    def _mount(self, flags: int, options: str) -> None:
        if self._libc.mount(b"none", os.fsencode(self.place), b"tmpfs", flags, options.encode()):
            pytest.skip("needs the right to mount a file system")

    def read_only(self) -> None:
        self._mount(32 | 1, "")  # MS_REMOUNT | MS_RDONLY

    def grow(self, nbytes: int) -> None:
        self._mount(32, f"size={nbytes}")

    def end(self) -> None:
        self._libc.umount2(os.fsencode(self.place), 2)


@pytest.fixture
def mounted(tmp_path):
    (tmp_path / "disk").mkdir()
    disk = Mounted(tmp_path / "disk", 400_000)
    yield disk
    disk.end()


def words(settings) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def test_a_file_system_that_is_really_full_and_then_has_room(unbroken, settings, mounted, capsys):
    out = mounted.place / "run"
    with pytest.raises(SystemExit, match="1"):
        main(["study", *words(settings), "--out", str(out), "--device", "cpu"])
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("leapverify: ")
    assert "the disk is full" in error[-1]
    assert not any("Traceback" in line for line in error)
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("step-*.safetensors")}
    mounted.grow(50_000_000)
    same_numbers(run_study("tiny", out, device="cpu", settings=settings), unbroken[0])
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items() if path.exists())


def test_a_read_only_file_system_refuses_studies_races_and_reports(unbroken, mounted, settings, capsys):
    mounted.grow(50_000_000)
    shutil.copytree(unbroken[0].path, mounted.place / "run")
    mounted.read_only()
    out = mounted.place / "new"
    for arguments in (
        ["study", *words(settings), "--out", str(out), "--device", "cpu"],
        ["race", "tasks=[convex]", "--out", str(out), "--device", "cpu"],
        ["report", str(mounted.place / "run")],
        ["sweep", str(mounted.place / "run")],
    ):
        with pytest.raises(SystemExit, match="1"):
            main(arguments)
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("leapverify: "), arguments
        assert "read-only: name another folder" in said, arguments
    same_numbers(load_study(mounted.place / "run"), unbroken[0])
    with pytest.raises(NotWritten, match="read-only"):
        keep_only(mounted.place / "run" / "seed-42" / "snapshots", [])
    with pytest.raises(NotWritten, match="read-only"):
        build_report(mounted.place / "run")


def test_training_goes_on_where_the_engines_log_has_no_room(mounted, caplog):
    (mounted.place / "filler").write_bytes(bytes(390_000))
    plain = make("mlp")
    plain.run(24)
    wanted = fingerprint_of(plain)
    loop = make("mlp")
    leap = loop.leap(mode="monitor", log=mounted.place / "logs" / "events.jsonl", interval=1)
    (mounted.place / "rest").write_bytes(bytes(_room(mounted.place)))
    events = loop.run(24, leap)
    assert fingerprint_of(loop) == wanted
    assert events, "monitoring goes on, too"
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1
    assert "writes its log no more, training and leaping go on" in said[0]
    assert "free some space or name another file" in said[0]
    assert leap.disabled is None


def _room(place: Path) -> int:
    free = os.statvfs(place)
    return free.f_bavail * free.f_frsize
