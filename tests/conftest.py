"""What holds for every test.

One torch thread: the suite runs side by side, and narrow operations gain nothing from a second. Properties are tried
on the same inputs in every run; `HYPOTHESIS_PROFILE=soak` draws new ones (`make soak`). A run that many tests read is
recorded once, and copied by those that write to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import settings

from shared_runs import made_once
from small_text import write_documents

if TYPE_CHECKING:
    from leapverify.config.study import StudyConfig
    from leapverify.study.folder import Study

torch.set_num_threads(1)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("soak", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--write-golden` writes the golden records instead of comparing with them."""
    parser.addoption("--write-golden", action="store_true", help="write tests/golden/records anew")


def pytest_configure(config: pytest.Config) -> None:
    """`pytest` alone runs the fast tests; of a file or a folder that is named, all."""
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.markexpr:
        config.option.markexpr = "not slow"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the session, the same for all of its workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent / "shared" if "PYTEST_XDIST_WORKER" in os.environ else base / "shared"


@pytest.fixture(scope="session", autouse=True)
def cache(shared: Path) -> Iterator[Path]:
    """Token bins of the tests, apart from the user's; worker processes inherit the variable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAPVERIFY_CACHE", str(shared / "cache"))
        yield shared / "cache"


@pytest.fixture(scope="session")
def text(shared: Path) -> Path:
    """A folder of small documents, all different."""

    def make(folder: Path) -> None:
        folder.mkdir()
        write_documents(folder)

    return made_once(shared / "text", make)


@pytest.fixture(scope="session")
def micro(text: Path) -> Callable[..., StudyConfig]:
    """The configuration of a micro study, with whatever else a test wants (names with __ for dots)."""
    from leapverify.config.overrides import with_settings
    from leapverify.config.presets import preset
    from micro import MICRO

    def make(**changes: Any) -> StudyConfig:
        settings = {**MICRO, "data.source": f"text:{text}"}
        settings |= {name.replace("__", "."): value for name, value in changes.items()}
        return with_settings(preset("tiny"), settings)

    return make


@pytest.fixture(scope="session")
def record_once(shared: Path) -> Callable[..., Study]:
    """Records a study, by a name, where none of that name was recorded yet. Nobody changes what is in it."""
    from leapverify import load_study, run_study
    from leapverify.runs import execution

    def record(name: str, config: StudyConfig) -> Study:
        def make(out: Path) -> None:
            run_study(config, out, device="cpu", execution=execution("in-process"))

        return load_study(made_once(shared / "runs" / name, make))

    return record


@pytest.fixture(scope="session")
def micro_run(record_once: Callable[..., Study], micro: Callable[..., StudyConfig]) -> Study:
    """The micro study as it stands."""
    return record_once("micro", micro())
