"""One recorded micro study, copied for every test that writes to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from leapverify.config.study import StudyConfig
from leapverify.study.folder import Study


@pytest.fixture(scope="session")
def config(micro: Callable[..., StudyConfig]) -> StudyConfig:
    """A study of 60 steps with a checkpoint every 10."""
    return micro(cascade__kinds=[], verify__selection_sequences=8)


@pytest.fixture(scope="session")
def recorded(config: StudyConfig, record_once: Callable[..., Study]) -> Path:
    """The study's folder, not to be written."""
    return record_once("bench", config).path


@pytest.fixture
def copy(recorded: Path, tmp_path: Path) -> Callable[..., Path]:
    """Gives copies of the study."""

    def make(name: str = "run") -> Path:
        return shutil.copytree(recorded, tmp_path / name)

    return make
