"""A damaged file costs a note: the study goes on from what is whole, and ends with the undamaged run's numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_runs import flip, problems, put, recorded
from leapverify import load_study
from leapverify.audit import audit
from leapverify.config.overrides import load_config, with_settings
from leapverify.config.study import StudyConfig
from leapverify.errors import ConfigError, Damaged
from leapverify.io.manifest import NAME
from leapverify.io.storage import read_json
from leapverify.report import build_report
from leapverify.study.folder import Study
from micro import same_numbers


@pytest.fixture(scope="module")
def one_seed(small_config: StudyConfig) -> StudyConfig:
    return with_settings(small_config, {"seeds": [42]})


@pytest.fixture(scope="module")
def whole(one_seed: StudyConfig, record_once: Callable[..., Study]) -> Path:
    return record_once("audit-one-seed", one_seed).path


@pytest.fixture
def stopped(whole: Path, tmp_path: Path) -> Path:
    """As if the study had been stopped at step 20."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for name in (NAME, "done.json", "seed-42/done.json"):
        (out / name).unlink()
    for folder in ("snapshots", "optimizer"):
        for path in (out / "seed-42" / folder).glob("step-0000[34]0.*"):
            path.unlink()
    return out


def notes_of(config: StudyConfig, out: Path) -> list[str]:
    notes: list[str] = []
    recorded(config, out, lambda progress: notes.append(progress.note) if progress.note else None)
    return notes


def digit(path: Path) -> None:
    """Make another number of a digit: the file stays JSON or YAML."""
    content = path.read_bytes()
    at = next(at for at in range(len(content) // 3, len(content)) if content[at : at + 1].isdigit())
    put(path, content[:at] + (b"1" if content[at : at + 1] != b"1" else b"2") + content[at + 1 :])


@pytest.mark.failure(2)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("thresholds.json", "its content is not what was written.*the cut points are worked out again"),
        ("config.yaml", "its text is not what was written.*it is written again"),
        ("environment.json", "is damaged: what this machine is takes its place"),
        ("seed-42/snapshots/step-000020.safetensors", "is damaged.*going back to an earlier checkpoint"),
        ("seed-42/optimizer/step-000020.json", "its mark step-000020.json is missing or unreadable.*going back"),
        ("seed-42/records/curve.json", "is not complete.*begins again"),
    ],
)
def test_a_damaged_file_is_named_and_the_study_ends_as_if_it_were_whole(
    one_seed: StudyConfig, whole: Path, stopped: Path, name: str, said: str
) -> None:
    import re

    digit(stopped / name) if not name.endswith(".safetensors") else flip(stopped / name)
    assert problems(stopped)
    notes = notes_of(one_seed, stopped)
    assert any(re.search(said, note) and Path(name).stem in note for note in notes), notes
    same_numbers(load_study(stopped), load_study(whole))
    assert audit(stopped) == []


def test_a_configuration_that_was_deleted_is_written_again(one_seed: StudyConfig, stopped: Path) -> None:
    (stopped / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"config.yaml is missing, of a study with another configuration: put back"):
        recorded(with_settings(one_seed, {"training.lr": 1e-4}), stopped)
    assert any("config.yaml is missing" in note for note in notes_of(one_seed, stopped))
    assert load_config(stopped / "config.yaml") == one_seed
    assert audit(stopped) == []


@pytest.mark.failure(2)
def test_the_snapshot_of_another_seed_is_not_taken_for_ones_own(
    one_seed: StudyConfig, whole: Path, stopped: Path, healthy: Path
) -> None:
    for suffix in (".safetensors", ".json"):
        name = f"snapshots/step-000020{suffix}"
        put(stopped / "seed-42" / name, (healthy / "seed-43" / name).read_bytes())
    notes = notes_of(one_seed, stopped)
    assert any("was written as seed-43/snapshots/step-000020.safetensors" in note for note in notes)
    assert any("going on from step 10" in note for note in notes)
    same_numbers(load_study(stopped), load_study(whole))


def test_a_configuration_that_nothing_vouches_for_is_refused(one_seed: StudyConfig, stopped: Path) -> None:
    digit(stopped / "config.yaml")
    (stopped / "environment.json").unlink()
    with pytest.raises(Damaged, match=r"config\.yaml is damaged: its text is not what was written; put back a copy"):
        recorded(one_seed, stopped)


def test_a_configuration_is_not_read_in_part(run: Path) -> None:
    content = (run / "config.yaml").read_bytes()
    for length in (0, 10, 40, 100, len(content) // 2, len(content) - 2):
        put(run / "config.yaml", content[:length])
        with pytest.raises(ValueError, match=r"config\.yaml (is damaged|holds no mapping)"):
            load_config(run / "config.yaml")


@pytest.mark.parametrize("name", ["thresholds.json", "environment.json", "config.yaml"])
def test_a_report_is_not_made_from_what_is_damaged(copied: Callable[[], Path], name: str) -> None:
    run = copied()
    digit(run / name)
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        build_report(run)


def test_what_was_finished_and_is_damaged_is_mended_by_the_same_command(
    one_seed: StudyConfig, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for name in ("done.json", "seed-42/done.json", "seed-42/fingerprints.safetensors"):
        flip(out / name)
    assert len(problems(out)) == 3
    assert any("fingerprints" in note or "done.json" in note for note in notes_of(one_seed, out))
    same_numbers(load_study(out), load_study(whole))
    assert audit(out) == []
    assert read_json(out / "done.json") == {"seeds": [42], "steps": 40}
