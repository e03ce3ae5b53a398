"""Several studies below one folder, one after another: what the ladder and the findings have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from leapverify.study.config import ConfigError, StudyConfig
from leapverify.study.executor import Deadline, Paused, StudyError
from leapverify.study.folder import Study
from leapverify.study.progress import Progress, Watcher
from leapverify.study.run import minutes_until, run_study


def run_each(
    configs: Mapping[str, StudyConfig],
    folder: Path,
    *,
    what: str,
    device: str,
    watcher: Watcher,
    deadline: Deadline = None,
) -> Iterator[tuple[str, Study | str]]:
    """Run every study in a folder of its name; those that are finished are read, those begun go on.

    Args:
        configs: name -> configuration.
        folder: where their run folders lie.
        what: the word before the name in the note that each begins with.
        device: auto, cpu or cuda.
        watcher: is told how every seed gets on.
        deadline: of all of them together.

    Yields:
        Name and study, or the reason why it failed: one study that cannot run must not cost the others.

    Raises:
        Paused: the deadline passed; the same call goes on.
    """
    for name, config in configs.items():
        watcher(Progress(config.seeds[0], 0, config.training.steps, "note", note=f"{what}: {name}"))
        try:
            left = minutes_until(deadline)
            yield name, run_study(config, folder / name, device=device, watcher=watcher, minutes=left)
        except Paused:
            raise
        except (StudyError, ConfigError) as error:
            yield name, " ".join(str(error).split())
