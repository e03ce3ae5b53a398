"""The units' files: one JSON each, present and whole means done."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from leapverify.errors import Damaged
from leapverify.io.checksum import json_sha256
from leapverify.io.records import RacePoint, RaceRun, from_plain
from leapverify.io.storage import read_json, write_json
from leapverify.io.yaml_file import as_written
from leapverify.race.plan import RaceUnit, Result

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

    def path(self, unit: RaceUnit) -> Path:
        """The unit's file."""
        return self.folder / f"{unit.key(self._decided_by)}.json"

    def write(self, unit: RaceUnit, result: Result) -> None:
        """Keep a unit's result, whole or not at all."""
        content = {"unit": unit.to_plain(), **dataclasses.asdict(result)}
        write_json(self.path(unit), {"sha256": json_sha256(content), "content": content})

    def read(self, unit: RaceUnit) -> Result | None:
        """A unit's result; None where there is none yet.

        Raises:
            Damaged: the file is not what was written.
        """
        path = self.path(unit)
        if not path.exists():
            return None
        found = read_json(path)
        content = found.get("content") if isinstance(found, dict) else None
        if not isinstance(content, dict) or json_sha256(content) != found.get("sha256"):
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

    def need(self, unit: RaceUnit) -> Result:
        """A unit's result.

        Raises:
            Damaged: there is none, or the file is not what was written.
        """
        result = self.read(unit)
        if result is None:
            raise Damaged(f"{self.path(unit)} is missing; {_REMEDY}")
        return result
