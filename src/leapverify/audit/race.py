"""A race: its records, its units, and the text that its language tasks read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leapverify.audit.finding import Finding, remedy_for
from leapverify.audit.heldout import Looked, Text, check_text
from leapverify.audit.rows import check_rows
from leapverify.audit.seed import read_rows
from leapverify.race.config import RaceConfig
from leapverify.race.settings import load_config
from leapverify.race.tasks.text import FINETUNE_SHARES, PRETRAIN_SHARES
from leapverify.records import RacePoint, RaceRun
from leapverify.storage import Damaged, read_json

CONFIG = "race/config.yaml"


def check_race(run: Path, damaged: set[str], looked: Looked) -> Iterator[Finding]:
    """What is wrong with the race of a run folder beyond its files' sums."""
    for name, kind in {"race/runs.parquet": RaceRun, "race/curve.parquet": RacePoint}.items():
        rows = read_rows(run, name, kind, damaged)
        if isinstance(rows, Finding):
            yield rows
        elif rows is None:
            if name not in damaged and (run / "report.html").is_file():
                yield Finding(name, "gap", "is missing", remedy_for(name, run))
        else:
            yield from check_rows(name, rows, remedy_for(name, run))
    for path in sorted((run / "race" / "units").glob("*.json")):
        name = path.relative_to(run).as_posix()
        if name not in damaged and not _is_unit(path):
            yield Finding(name, "schema", "is no unit of a race", remedy_for(name, run))
    if CONFIG in damaged:
        return
    try:
        config = load_config(run / CONFIG)
    except ValueError as error:
        yield Finding(CONFIG, "config", " ".join(str(error).split()), remedy_for(CONFIG, run))
        return
    for text in _texts(config):
        yield from check_text(text, CONFIG, looked)


def _is_unit(path: Path) -> bool:
    try:
        found: Any = read_json(path)
        return isinstance(found["content"]["runs"], list)
    except (Damaged, KeyError, TypeError):
        return False


def _texts(config: RaceConfig) -> Iterator[Text]:
    chosen = {*config.tasks}
    if chosen & {"pretrain", "finetune", "lora"}:
        yield Text(config.text.source, config.text.tokenizer, PRETRAIN_SHARES)
    if chosen & {"finetune", "lora"}:
        yield Text(config.data, config.text.tokenizer, FINETUNE_SHARES)
