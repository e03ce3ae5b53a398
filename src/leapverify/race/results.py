"""The units' files: one JSON each, present and whole means done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from leapverify.io.records import RacePoint, RaceRun, from_plain
from leapverify.io.storage import Damaged, read_json, write_json
from leapverify.io.yaml_file import as_written
from leapverify.race.plan import Result, Unit

_REMEDY = "it is made again when the same command is given"


class Store:
    """The units of one race folder.

    Args:
        folder: where the files lie.
        decided_by: digest of the configuration.
    """

    def __init__(self, folder: Path, decided_by: str) -> None:
        self.folder = folder
        self._decided_by = decided_by

    def path(self, unit: Unit) -> Path:
        """The unit's file."""
        return self.folder / f"{unit.key(self._decided_by)}.json"

    def write(self, unit: Unit, result: Result) -> None:
        """Keep a unit's result, whole or not at all."""
        content = {"unit": unit.to_plain(), **dataclasses.asdict(result)}
        write_json(self.path(unit), {"sha256": _digest(content), "content": content})

    def read(self, unit: Unit) -> Result | None:
        """A unit's result; None where there is none yet.

        Raises:
            Damaged: the file is not what was written.
        """
        path = self.path(unit)
        if not path.exists():
            return None
        found = read_json(path)
        content = found.get("content") if isinstance(found, dict) else None
        if not isinstance(content, dict) or _digest(content) != found.get("sha256"):
            raise Damaged(f"{path} is damaged: its content is not what was written; {_REMEDY}")
        with as_written(path, _REMEDY):
            if not content["runs"]:
                raise ValueError("no run is in it")
            return Result(
                from_plain(RaceRun, content["runs"]),
                from_plain(RacePoint, content["points"]),
                tuple({**event} for event in content["events"]),
                tuple(map(str, content["notes"])),
            )

    def need(self, unit: Unit) -> Result:
        """A unit's result.

        Raises:
            Damaged: there is none, or the file is not what was written.
        """
        result = self.read(unit)
        if result is None:
            raise Damaged(f"{self.path(unit)} is missing; {_REMEDY}")
        return result


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
