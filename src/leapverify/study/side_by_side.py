"""Several studies below one folder, side by side: what the ladder and the findings have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from leapverify.study.config import ConfigError, StudyConfig
from leapverify.study.executor import AUTOMATIC, Deadline, Execution, Paused, StudyError
from leapverify.study.folder import Study
from leapverify.study.progress import Watcher
from leapverify.study.several import run_several


def run_each(
    wanted: Mapping[str, tuple[StudyConfig, Path]],
    folder: Path,
    *,
    device: str,
    watcher: Watcher,
    deadline: Deadline = None,
    execution: Execution = AUTOMATIC,
) -> dict[str, Study | StudyError | ConfigError]:
    """Run every study; those that are finished are read, those begun go on.

    The seeds of all of them are one set of tasks: no worker waits for the end of a study.

    Args:
        wanted: name -> configuration and run folder.
        folder: below which they are held together against other processes.
        device: auto, cpu or cuda.
        watcher: is told how every seed gets on.
        deadline: of all of them together.
        execution: what runs the seeds.

    Returns:
        Name -> study, or why it failed: one study that cannot run must not cost the others.

    Raises:
        Paused: the deadline passed; the same call goes on.
        StudyError: another process is at work in the folder.
    """
    found = run_several(wanted, folder, device=device, watcher=watcher, deadline=deadline, execution=execution)
    for study in found.values():
        if isinstance(study, Paused):
            raise study
    return found


def in_words(error: Exception) -> str:
    """Why a study failed, in one line."""
    return " ".join(str(error).split())
