"""Names that lead elsewhere: links out of a run folder, paths that are none, configurations without measure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostile_readers import READERS
from leapverify.config.overrides import load_config, with_settings
from leapverify.config.presets import preset
from leapverify.errors import ConfigError
from leapverify.io.untrusted import limits
from leapverify.io.untrusted.paths import named, require_inside
from leapverify.predict import predictor
from leapverify.report import build_report
from leapverify.train.documents import load_documents
from leapverify.train.tokenizers import load_tokenizer

pytestmark = pytest.mark.failure(15)


def a_run(folder: Path) -> Path:
    reader = READERS["report: configuration"]
    folder.mkdir()
    reader.beside(folder)
    return folder


@pytest.mark.parametrize("place", ["tables", "seed-1", "config.yaml", "environment.json"])
def test_a_link_out_of_a_run_folder_is_refused_by_name(tmp_path: Path, place: str) -> None:
    run, outside = a_run(tmp_path / "run"), tmp_path / "outside"
    outside.mkdir()
    if (run / place).exists():
        os.rename(run / place, outside / place)
    (run / place).symlink_to(outside / place if (outside / place).exists() else outside)
    with pytest.raises(ValueError, match=rf"{place} is a link that leaves the run folder: put the files themselves"):
        build_report(run)
    assert not (outside / "report.html").exists()
    assert [path.name for path in outside.iterdir() if path.suffix == ".md"] == []
    with pytest.raises(ValueError, match="leaves the run folder"):
        load_config(run / "config.yaml")


def test_links_inside_and_to_a_run_folder_are_left_alone(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    (run / "newest").symlink_to("tables")
    (tmp_path / "link").symlink_to(run)
    require_inside(run)
    require_inside(tmp_path / "link")
    require_inside(tmp_path / "absent")


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    (run / "a").symlink_to("b")
    (run / "b").symlink_to("a")
    (run / "c").symlink_to(".")
    require_inside(run)


def test_more_files_than_any_run_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENTRIES", 3)
    with pytest.raises(ValueError, match="holds more than 3 files: name the run folder itself"):
        require_inside(a_run(tmp_path / "run"))


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "~nobody-of-that-name/x"])
def test_what_is_no_path_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=r"is no path \(.+\): name a file or folder"):
        named(name)
    for use in (lambda: list(load_documents(f"text:{name}")), lambda: predictor(f"wnn:{name}"),
                lambda: predictor(f"nino-mlp:{name}"), lambda: load_tokenizer(f"./{name}")):  # fmt: skip
        with pytest.raises(ValueError, match=r"is no path|does not exist|is not there|is missing"):
            use()


def test_a_configuration_without_measure_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"more than 1000000 checkpoints: raise observe.interval_steps"):
        with_settings(preset("tiny"), {"training.steps": 10**15, "observe.interval_steps": 1})
    with pytest.raises(ConfigError, match=r"model\.layers is 100001"):
        with_settings(preset("tiny"), {"model.layers": 100_001})
