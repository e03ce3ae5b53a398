"""A finished micro study of two seeds, and copies of it to damage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from leapverify.config.study import StudyConfig
from leapverify.study.folder import Study

SMALL: Mapping[str, Any] = {
    "seeds": [42, 43],
    "training__steps": 40,
    "sweep__predictors": ["hold", "linear"],
    "sweep__horizons": [5, 10],
    "cascade__predictors": ["linear"],
    "cascade__trained_predictors": ["hold"],
}


@pytest.fixture(scope="session")
def small_config(micro: Callable[..., StudyConfig]) -> StudyConfig:
    """The configuration."""
    return micro(**SMALL)


@pytest.fixture(scope="session")
def healthy(small_config: StudyConfig, record_once: Callable[..., Study]) -> Path:
    """The undamaged run folder; nobody changes it."""
    return record_once("audit", small_config).path


@pytest.fixture
def copied(healthy: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes copies whose files are links: a test that changes a file replaces it."""

    def make() -> Path:
        out = tmp_path / "run"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(healthy, out, copy_function=os.link)
        return out

    return make


@pytest.fixture
def run(copied: Callable[[], Path]) -> Path:
    """One such copy."""
    return copied()
