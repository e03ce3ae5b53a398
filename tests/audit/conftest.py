"""A finished micro study of two seeds, and copies of it to damage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit_runs import recorded
from leapverify.config.overrides import with_settings
from leapverify.config.presets import preset
from leapverify.config.study import StudyConfig
from micro import MICRO
from small_text import write_documents

SMALL = {
    **MICRO,
    "seeds": [42, 43],
    "training.steps": 40,
    "sweep.predictors": ["hold", "linear"],
    "sweep.horizons": [5, 10],
    "cascade.predictors": ["linear"],
    "cascade.trained_predictors": ["hold"],
}


@pytest.fixture(scope="session")
def small_config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyConfig]:
    """The configuration, with text of its own and a cache apart from the user's."""
    text = write_documents(tmp_path_factory.mktemp("text"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAPVERIFY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield with_settings(preset("tiny"), {**SMALL, "data.source": f"text:{text}"})


@pytest.fixture(scope="session")
def healthy(small_config: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undamaged run folder; nobody changes it."""
    return recorded(small_config, tmp_path_factory.mktemp("healthy") / "run").path


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
