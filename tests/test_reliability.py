"""The failure table: every row has a test, and the page says what the markers and the soaks say."""

from __future__ import annotations

import importlib.util
import json
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from soak._record import KEYS, line, record

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reliability", ROOT / "benchmarks" / "reliability.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reliability"] = module
    spec.loader.exec_module(module)
    return module


reliability = _load()


def test_every_row_has_a_test() -> None:
    assert reliability.missing(reliability.collected()) == []


def test_the_page_is_what_markers_and_soaks_say() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert reliability.renewed(page) == page, "python benchmarks/reliability.py --write docs/reliability.md"


def test_markers_are_found_on_functions_classes_and_files(tmp_path: Path) -> None:
    (tmp_path / "soak").mkdir()
    (tmp_path / "test_a.py").write_text(
        "@pytest.mark.failure(3)\n@pytest.mark.parametrize('x', [1])\ndef test_one(x): ...\n"
        "@pytest.mark.failure(1, 2)\nclass TestMany:\n    @pytest.mark.failure(9)\n    def test_two(self): ...\n"
        "def test_none(): ...\n@pytest.mark.failure(5)\ndef helper(): ...\n"
    )
    (tmp_path / "soak" / "test_b.py").write_text(
        "pytestmark = [pytest.mark.failure(7), pytest.mark.slow]\ndef test_three(): ...\n"
    )
    found = reliability.collected(tmp_path)
    assert [(each.file, each.name, each.rows, each.soak) for each in found] == [
        ("soak/test_b.py", "test_three", (7,), True),
        ("test_a.py", "test_one", (3,), False),
        ("test_a.py", "test_two", (1, 2, 9), False),
    ]
    assert 7 in reliability.missing(found)
    assert 9 not in reliability.missing(found)


@pytest.mark.parametrize("rows", ["", "18", "0", "'3'"])
def test_a_marker_of_no_row_is_refused(rows: str, tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(f"@pytest.mark.failure({rows})\ndef test_one(): ...\n")
    with pytest.raises(ValueError, match=r"in tests/test_a.py names no row of the table: give numbers from 1 to 17"):
        reliability.collected(tmp_path)


def test_a_page_without_a_part_is_refused() -> None:
    with pytest.raises(ValueError, match="the page has no part 'table': put in <!-- table: made by"):
        reliability.renewed("# Reliability\n")


def test_soaks_are_collected_only_where_they_are_named() -> None:
    left_out = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["norecursedirs"]
    assert "soak" in left_out
    assert all(path.name.startswith("test_soak_") for path in (ROOT / "tests" / "soak").glob("test_*.py"))


# --- what soaks write -------------------------------------------------------------------------------------------------


def test_a_record_has_the_same_keys_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOAK_RESULTS", str(tmp_path))
    path = record(
        "x", rows=[3, 1], command="make soak", injected=1200, survived=1199, lost=1, refused=7, seconds=2.0, note="n"
    )
    found = json.loads(path.read_text())
    assert tuple(found) == KEYS
    assert (found["rows"], found["tried"]) == ([1, 3], None)
    assert line(path) == "x: rows 1, 3; 1200 faults, 1199 survived (7 refused), 1 lost; 2 s"
    assert reliability.figure(found) == "x: 1,200 faults, 1,199 survived (7 refused), 1 lost"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": [18]}, r"rows = \[18\] are none of the failure table"),
        ({"rows": []}, r"rows = \[\] are none"),
        ({"injected": 3}, "has injected = 3 and tried = 3: give one of them"),
        ({"lost": 1}, r"3 survived \(0 refused\) and 1 lost are not what was done"),
        ({"refused": 4}, r"3 survived \(4 refused\)"),
    ],
)
def test_a_record_that_does_not_add_up_is_refused(given: dict[str, object], message: str, tmp_path: Path) -> None:
    plain = {"rows": [1], "command": "c", "tried": 3, "survived": 3, "lost": 0, "seconds": 1.0, "note": "n"}
    with pytest.raises(ValueError, match=message):
        record("x", **{**plain, **given})  # type: ignore[arg-type]


def test_all_records_are_of_the_form() -> None:
    for found in reliability.records():
        assert tuple(found)[: len(KEYS)] == KEYS, found["name"]
