"""The whole study: seeds side by side, their records joined, seeds compared, report written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leapverify.config.overrides import with_settings
from leapverify.config.presets import preset as preset_named
from leapverify.config.study import StudyConfig
from leapverify.errors import ConfigError
from leapverify.runs import AUTOMATIC, Deadline, Execution
from leapverify.runs.progress import Watcher, ignore
from leapverify.study.folder import Study
from leapverify.study.run_many import run_many


def run_study(
    preset: str | StudyConfig = "tiny",
    out: Path | str | None = None,
    *,
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    watcher: Watcher = ignore,
    minutes: float | None = None,
    execution: Execution = AUTOMATIC,
) -> Study:
    """Run a study, or go on with one that was stopped, and write its report.

    Several seeds on a CPU run in processes of their own: a script that calls this needs the usual
    `if __name__ == "__main__":`.

    Args:
        preset: a preset's name or a whole configuration.
        out: the run folder; runs/PRESET by default.
        seeds: instead of the preset's.
        steps: optimizer steps, instead of the preset's; a named preset's warm-up keeps its share.
        device: auto, cpu or cuda.
        settings: dotted keys, such as {"training.lr": 1e-3}.
        watcher: is told how every seed gets on.
        minutes: after so many every seed stops at its next state; None: it runs to its end.
        execution: what runs the seeds, such as `execution("ray", workers=2)`; the numbers are the same.

    Returns: the finished study.

    Raises:
        ConfigError: wrong settings, or `out` holds something else.
        StudyError: a seed failed; what it had is kept.
        Paused: the minutes are over; the same call goes on.
    """
    config = preset if isinstance(preset, StudyConfig) else preset_named(preset, steps)
    changes = dict(settings or {})
    if seeds is not None:
        changes["seeds"] = list(seeds)
    if isinstance(preset, StudyConfig) and steps is not None:
        changes["training.steps"] = steps
    config = with_settings(config, changes)
    folder = Path(out or f"runs/{config.preset}")
    deadline = deadline_of(config, minutes)
    wanted = {"": (config, folder)}
    study = run_many(wanted, folder, device=device, watcher=watcher, deadline=deadline, execution=execution)[""]
    if isinstance(study, Study):
        return study
    raise study


def deadline_of(config: StudyConfig, minutes: float | None) -> Deadline | None:
    """The time after which the seeds of a study stop.

    Raises:
        ConfigError: no positive number of minutes, or a study that keeps nothing to go on from.
    """
    if minutes is None:
        return None
    if not 0 < minutes < math.inf:
        raise ConfigError(f"--minutes {minutes:g} is no time to work: give a positive number of minutes")
    if config.snapshots.every is None:
        raise ConfigError(
            "--minutes stops where a study can go on, and snapshots.every is null, which keeps no such place: "
            "set snapshots.every, or leave --minutes out"
        )
    return Deadline.after(60 * minutes)


def minutes_until(deadline: Deadline | None) -> float | None:
    """What is left, for a further study under the same deadline; never nothing, since one that is done may say so."""
    return None if deadline is None else max(1e-6, deadline.left_s / 60)
