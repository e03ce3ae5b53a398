"""How every driver of the laboratory ends and what it writes of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leapverify.config.study import StudyConfig
from leapverify.errors import ConfigError
from leapverify.io.storage import Damaged, read_json, write_json
from leapverify.runs import Failure, Paused, StudyError
from leapverify.runs.progress import Watcher, say


def raise_failures(failures: Mapping[int, Failure]) -> None:
    """Say which seeds failed and why.

    Raises:
        ConfigError: all of them for wrong use.
        Paused: all of them because their time was over.
        StudyError: any of them for another reason.
    """
    if not failures:
        return
    if all(failure.paused for failure in failures.values()):
        raise Paused(str(next(iter(failures.values()))))
    text = "; ".join(f"seed {seed}: {failure}" for seed, failure in failures.items())
    raise ConfigError(text) if all(failure.wrong_use for failure in failures.values()) else StudyError(text)


def _read_if_whole(path: Path) -> dict[str, Any]:
    """A JSON file's mapping, empty where there is none or it is damaged: it can be made again."""
    try:
        found = read_json(path)
    except Damaged:
        return {}
    return found if isinstance(found, dict) else {}


def write_environment(config: StudyConfig, out: Path, machine: dict[str, Any], watcher: Watcher) -> None:
    """Write what the study runs on; the start of a resumed study stays, other machines are listed."""
    path = out / "environment.json"
    if path.is_file() and not _read_if_whole(path):
        say(watcher, config, f"{path} is damaged: what this machine is takes its place")
    if first := _read_if_whole(path):
        same = {key: machine.get(key) for key in ("device", "cpu", "gpu", "versions", "ranks", "parallel")}
        if {key: first.get(key) for key in same} == same:
            return
        first.setdefault("continued_on", []).append(machine)
        machine = first
    write_json(path, machine)
