"""Races small enough for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leapverify.analysis.race.arms import RaceCase
from leapverify.config.overrides import with_settings
from leapverify.race.config import RaceConfig
from leapverify.race.plan import RaceUnit, Result
from leapverify.race.presets import preset
from leapverify.race.tasks import build_tasks
from leapverify.race.unit import run_unit

SHORT: Mapping[str, Any] = {"warmup_steps": 2, "eval_every": 5, "interval": 4}
MICRO: Mapping[str, Any] = {
    "tasks": ["convex", "noise"],
    "seeds": [0],
    "tuning_seeds": [1000],
    "device": "cpu",
    "sequences": 32,
    **{f"{task}.{key}": value for task in ("convex", "noise") for key, value in {"steps": 40, **SHORT}.items()},
}
TIMES = {"seconds", "overhead_s", "target_s", "cost_s"}


def micro(**changes: Any) -> RaceConfig:
    """The configuration; names with __ for dots."""
    settings = {**MICRO, **{name.replace("__", "."): value for name, value in changes.items()}}
    return with_settings(preset("tiny"), settings)


def words(**changes: Any) -> list[str]:
    """The same as words of a command line."""
    settings = {**MICRO, **{name.replace("__", "."): value for name, value in changes.items()}}
    return [f"{key}={value}" for key, value in settings.items()]


def unit_of(arm: str, **changes: Any) -> RaceUnit:
    """A unit of the noise task by AdamW."""
    unit = RaceUnit(RaceCase("noise", "adamw", "usual"), arm, 0, "race", 1e-2, 40, target=0.0)
    return dataclasses.replace(unit, **changes)


def trained(arm: str, config: RaceConfig | None = None, **changes: Any) -> Result:
    """What a unit gives; of tasks that need no folder."""
    config, unit = config or micro(), unit_of(arm, **changes)
    return run_unit(unit, build_tasks(config)[unit.case.task], config, Path())


def timeless(rows: Any) -> list[dict[str, Any]]:
    """Rows or events without what a clock put in."""
    plain = [row if isinstance(row, dict) else dataclasses.asdict(row) for row in rows]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in plain]


def losses(result: Result) -> list[float | None]:
    """The reported losses of a result, in order."""
    return [point.loss for point in result.points]
