"""One recorded micro study, copied for every test that writes to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leapverify.config.overrides import with_settings
from leapverify.config.presets import preset
from leapverify.config.study import StudyConfig
from leapverify.study.run import run_study
from micro import MICRO
from small_text import write_documents


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Token bins of the tests, apart from the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAPVERIFY_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    """A study of 60 steps with a checkpoint every 10, on documents that are all different."""
    folder = write_documents(tmp_path_factory.mktemp("text"))
    changes = {"data.source": f"text:{folder}", "cascade.kinds": [], "verify.selection_sequences": 8}
    return with_settings(preset("tiny"), {**MICRO, **changes})


@pytest.fixture(scope="session")
def recorded(config: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's folder, not to be written."""
    return run_study(config, tmp_path_factory.mktemp("recorded") / "run", device="cpu").path


@pytest.fixture
def copy(recorded: Path, tmp_path: Path) -> Callable[..., Path]:
    """Gives copies of the study."""

    def make(name: str = "run") -> Path:
        return shutil.copytree(recorded, tmp_path / name)

    return make
