"""Killed anywhere, powerless anywhere: the same command goes on, and nothing is lost. A sample; the soak has 200."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from killed_study import Victim, small
from marks import slow

pytestmark = [
    pytest.mark.failure(1, 5),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and forks a process that has run torch"),
]


@pytest.fixture(scope="module")
def victim(text, tmp_path_factory):
    return Victim(small(text), tmp_path_factory.mktemp("kills"))


def place(victim: Victim, kind: str, share: float) -> int:
    """A primitive of a kind, that far into the run."""
    places = [number for number, each in enumerate(victim.kinds, 1) if each == kind]
    return places[int(share * (len(places) - 1))]


@pytest.mark.parametrize(
    ("kind", "share"),
    [("safetensors", 0.55), slow("fsync", 0.3), ("rename", 0.45), slow("write", 0.2), slow("unlink", 0.5)],
)
def test_killed_in_a_primitive(victim: Victim, kind: str, share: float) -> None:
    outcome = victim.kill_at(place(victim, kind, share))
    assert (outcome.fired, outcome.lost) == (True, None)


@pytest.mark.parametrize(("seed", "share"), [(None, 0.35), slow(0, 0.5)])
def test_the_power_fails(victim: Victim, seed: int | None, share: float) -> None:
    chance = None if seed is None else random.Random(seed)
    outcome = victim.cut_power_at(place(victim, "fsync", share), chance)
    assert (outcome.fired, outcome.lost) == (True, None)


def test_a_folder_is_promised_by_the_folder_above_it(tmp_path: Path) -> None:
    """The model itself: what nobody waited for is gone, and what somebody waited for is there."""
    from faulty_disk import Disk, Model
    from leapverify.io.storage import make_folder, write_text

    model = Model(tmp_path)
    with Disk(tmp_path, model=model).watched():
        make_folder(tmp_path / "kept" / "below")
        (tmp_path / "lost").mkdir()
        write_text(tmp_path / "kept" / "below" / "whole", "whole")
        (tmp_path / "kept" / "half").write_text("nobody waited")
        write_text(tmp_path / "lost-name", "old")
    model.lose_power(None)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {
        "kept", "kept/below", "kept/below/whole", "lost", "lost-name",
    }  # fmt: skip
