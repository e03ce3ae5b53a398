"""Text and configuration of a micro study."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leapverify.config.overrides import with_settings
from leapverify.config.presets import preset
from leapverify.config.study import StudyConfig
from micro import MICRO
from small_text import write_documents


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small documents, all different."""
    return write_documents(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Token bins of the tests, apart from the user's; worker processes inherit the variable."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAPVERIFY_CACHE", str(folder))
        yield folder


@pytest.fixture
def micro(text: Path) -> Callable[..., StudyConfig]:
    """The configuration, with whatever else a test wants (names with __ for dots)."""

    def make(**changes: Any) -> StudyConfig:
        settings = {**MICRO, "data.source": f"text:{text}"}
        settings |= {name.replace("__", "."): value for name, value in changes.items()}
        return with_settings(preset("tiny"), settings)

    return make
