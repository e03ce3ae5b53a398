"""Configurations of a race from what users type and from files; one sentence for every mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from leapverify.config.overrides import flat, one_line, with_keys
from leapverify.errors import ConfigError
from leapverify.io.untrusted.paths import require_inside
from leapverify.io.yaml_file import read_yaml
from leapverify.predict import predictor
from leapverify.race.arms import arm_named, with_needs
from leapverify.race.config import RaceConfig
from leapverify.race.plan import SELECTION


def with_settings(config: RaceConfig, settings: Mapping[str, Any]) -> RaceConfig:
    """The configuration with dotted keys set, checked as a whole, arms included.

    Raises:
        ConfigError: an unknown key or a value that does not fit, in one sentence.
    """
    return checked(with_keys(config.model_dump(mode="json"), settings, open_groups=("usual", "grids")))


def checked(tree: Mapping[str, Any]) -> RaceConfig:
    """A configuration from plain data.

    Raises:
        ConfigError: what is wrong, in one sentence.
    """
    try:
        config = RaceConfig.model_validate(tree)
        for name in with_needs(config.arms, config.predictors):
            if (read := arm_named(name).leap.get("predictor")) is not None:
                predictor(read)  # of a file that is missing, or of no predictor, it is said before anything is run
    except ValidationError as error:
        raise ConfigError(one_line(error)) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return config


def load_config(path: Path) -> RaceConfig:
    """The configuration of a race folder's config.yaml.

    Raises:
        Damaged: its text is no YAML, or not what was written.
        ConfigError: it is missing, or no configuration.
        ValueError: a link leads out of the race's folder.
    """
    require_inside(path.parent)
    try:
        return checked(read_yaml(path, "delete it and give the same command again"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing: {path.parent} holds no race") from error


def dump_config(config: RaceConfig) -> str:
    """The configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def differences(there: RaceConfig, now: RaceConfig) -> list[str]:
    """The settings that decide numbers and differ, as 'key: a there, b now'."""
    left, right = (flat(each.model_dump(mode="json", exclude=set(SELECTION))) for each in (there, now))
    keys = dict.fromkeys([*right, *left])
    return [f"{key}: {left.get(key)} there, {right.get(key)} now" for key in keys if left.get(key) != right.get(key)]


def left_out(there: RaceConfig, now: RaceConfig) -> list[str]:
    """What the folder's race runs and this one does not, as 'seeds: 3, 4 there, not now'."""
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
