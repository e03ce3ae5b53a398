"""A race's configuration in its folder, and what makes a folder's race another one."""

from __future__ import annotations

from pathlib import Path

from leapverify.config.overrides import differences, read_config
from leapverify.race.arms import with_needs
from leapverify.race.config import RaceConfig
from leapverify.race.plan import SELECTION


def load_config(path: Path) -> RaceConfig:
    """The configuration of a race folder's config.yaml.

    Raises:
        Damaged: its text is no YAML, or not what was written.
        ConfigError: it is missing, or no configuration.
        ValueError: a link leads out of the race's folder.
    """
    return read_config(RaceConfig, path, "holds no race", "delete it and give the same command again")


def other_race(there: RaceConfig, now: RaceConfig) -> list[str]:
    """Why a folder's race cannot go on as this one; empty where it can.

    Settings that decide numbers and differ, as 'alpha: 0.05 there, 0.1 now'; otherwise what the folder's race runs and
    this one does not, as 'seeds: 3, 4 there, not now'.
    """
    return differences(there, now, exclude=SELECTION) or _left_out(there, now)


def _left_out(there: RaceConfig, now: RaceConfig) -> list[str]:
    found = []
    for key, before, after in (
        ("tasks", there.tasks, now.tasks),
        ("optimizers", there.optimizers, now.optimizers),
        ("rates", there.rates, now.rates),
        ("arms", with_needs(there.arms, there.predictors), with_needs(now.arms, now.predictors)),
        ("seeds", there.seeds, now.seeds),
    ):
        if missing := [str(each) for each in before if each not in after]:
            found.append(f"{key}: {', '.join(missing)} there, not now")
    return found
