"""Checks of a study and of a race: every seed, the records joined from them, tensors, configuration and text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from leapverify.audit.finding import AuditIssue, Tell, remedy_for
from leapverify.audit.heldout import Looked, Text, check_text
from leapverify.audit.lineage import check_lineage, nonfinite
from leapverify.audit.seed import KINDS, SeedAudit, check_rows, key_of, read_rows
from leapverify.config.overrides import identity_of, load_config
from leapverify.config.resolved import Resolved
from leapverify.config.study import StudyConfig
from leapverify.errors import Damaged
from leapverify.io.records import Benched, Prediction, RacePoint, RaceRun, SeedMeasure
from leapverify.io.storage import read_json
from leapverify.race.config import RaceConfig
from leapverify.race.overrides import load_config as load_race_config
from leapverify.race.tasks.text import FINETUNE_SHARES, PRETRAIN_SHARES
from leapverify.study.folder import CHECKPOINTS, CURVE, DONE, PREDICTIONS, SEEDS

CONFIG = "config.yaml"
RACE_CONFIG = "race/config.yaml"


def check_study(run: Path, damaged: set[str], tell: Tell, looked: Looked) -> Iterator[AuditIssue]:
    """What is wrong with a study beyond its files' sums.

    Args:
        run: its folder.
        damaged: files that have been named already.
        tell: is told what is looked at.
        looked: texts that have been looked at already.
    """
    if CONFIG in damaged:
        return
    try:
        asked = load_config(run / CONFIG)
    except ValueError as error:
        yield AuditIssue(CONFIG, "config", " ".join(str(error).split()), remedy_for(CONFIG, run))
        return
    yield from _identity(run, asked, damaged)
    config = Resolved.of(asked)
    there = sorted(int(path.name[5:]) for path in run.glob("seed-*") if path.name[5:].isdigit())
    yield from _seeds(run, asked, there, damaged)
    audits = {}
    for seed in [seed for seed in config.seeds if seed in there]:
        tell(f"seed {seed}", 0, 0)
        audits[seed] = SeedAudit(run, seed, config, damaged)
        yield from audits[seed].findings()
    yield from _joined(run, audits, damaged)
    yield from _bench(run, damaged)
    yield from check_tensors(run, damaged, tell)
    tell("lineage", 0, 0)
    yield from check_lineage(run, asked, [seed for seed in config.seeds if seed in there], damaged)
    tell("text", 0, 0)
    yield from check_text(Text(config.data.source, config.data.tokenizer), CONFIG, looked)


def _identity(run: Path, config: StudyConfig, damaged: set[str]) -> Iterator[AuditIssue]:
    """Whether the study began with the configuration that lies there."""
    try:
        begun = read_json(run / "environment.json").get("config_sha256")
    except (Damaged, AttributeError):
        if "environment.json" not in damaged:
            text = "is missing or says nothing: on what the study ran is not known"
            yield AuditIssue("environment.json", "config", text, remedy_for("environment.json", run))
        return
    if begun not in (None, identity_of(config)):
        text = "is not the configuration that environment.json says this study began with"
        yield AuditIssue(CONFIG, "config", text, "put back a copy of it, or verify with the version that wrote it")


def _seeds(run: Path, config: StudyConfig, there: Sequence[int], damaged: set[str]) -> Iterator[AuditIssue]:
    done = (run / DONE).is_file() and DONE not in damaged
    for seed in sorted(set(there) - set(config.seeds)):
        text = f"is of a seed that config.yaml does not name ({', '.join(map(str, config.seeds))})"
        yield AuditIssue(f"seed-{seed}", "config", text, "delete it, unless it is yours; then keep it elsewhere")
    if not done:
        return
    for seed in config.seeds:
        if not (run / f"seed-{seed}" / DONE).is_file() and f"seed-{seed}/{DONE}" not in damaged:
            text = (
                f"says that the study is done, and seed {seed} {'has not finished' if seed in there else 'is missing'}"
            )
            yield AuditIssue(DONE, "done", text, "delete it and give the same study command again")


def _joined(run: Path, audits: dict[int, SeedAudit], damaged: set[str]) -> Iterator[AuditIssue]:
    """The records of all seeds together, against those that they were joined from."""
    if not (run / DONE).is_file():
        return
    for name, kind in {**KINDS, SEEDS: SeedMeasure}.items():
        rows = read_rows(run, name, kind, damaged)
        remedy = remedy_for(name, run)
        if isinstance(rows, AuditIssue):
            yield rows
        elif rows is None:
            if name not in damaged and name.replace(".parquet", ".json") not in damaged:
                yield AuditIssue(name, "gap", "is missing", remedy)
        else:
            yield from check_rows(name, rows, remedy)
            if name in KINDS:
                yield from _same(name, rows, audits, remedy)


def _same(name: str, rows: list[Any], audits: dict[int, SeedAudit], remedy: str) -> Iterator[AuditIssue]:
    for seed, audit in audits.items():
        if audit.rows is None:
            continue
        own = getattr(audit.rows, name.removesuffix(".parquet"))
        here = [row for row in rows if row.seed == seed]
        # What only a run's future tells is filled in when predictions and cascades are joined.
        whole = name in (CHECKPOINTS, CURVE)
        if here != own if whole else [key_of(row) for row in here] != [key_of(row) for row in own]:
            text = f"does not say of seed {seed} what seed-{seed}/records/{name} says"
            yield AuditIssue(name, "config", text, remedy)


def _bench(run: Path, damaged: set[str]) -> Iterator[AuditIssue]:
    for folder in (run / "bench", *sorted((run / "bench").glob("seed-*"))):
        for file, kind in ((PREDICTIONS, Prediction), ("benched.parquet", Benched)):
            name = (folder / file).relative_to(run).as_posix()
            rows = read_rows(run, name, kind, damaged)
            if isinstance(rows, AuditIssue):
                yield rows
            elif rows is not None:
                yield from check_rows(name, rows, remedy_for(name, run))


def check_tensors(run: Path, damaged: set[str], tell: Tell) -> Iterator[AuditIssue]:
    """Snapshots, states and fingerprints that hold NaN or infinity; read a piece at a time."""
    paths = sorted(path for path in run.glob("seed-*/**/*.safetensors") if path.is_file())
    sizes = [path.stat().st_size for path in paths]
    for number, path in enumerate(paths):
        name = path.relative_to(run).as_posix()
        if name in damaged or name.replace(".safetensors", ".json") in damaged:
            continue
        tell(name, sum(sizes[:number]), sum(sizes))
        try:
            found = nonfinite(path)
        except (SafetensorError, OSError) as error:
            yield AuditIssue(name, "schema", f"is no safetensors file ({error})", remedy_for(name, run))
            continue
        if found is not None:
            text = f"holds {found[1]:,} values that are not finite, in {found[0]}"
            remedy = "go back to a snapshot before, and begin a study with a lower training.lr if it comes again"
            yield AuditIssue(name, "nonfinite", text, remedy)


def check_race(run: Path, damaged: set[str], looked: Looked) -> Iterator[AuditIssue]:
    """What is wrong with the race of a run folder beyond its files' sums."""
    for name, kind in {"race/runs.parquet": RaceRun, "race/curve.parquet": RacePoint}.items():
        rows = read_rows(run, name, kind, damaged)
        if isinstance(rows, AuditIssue):
            yield rows
        elif rows is None:
            if name not in damaged and (run / "report.html").is_file():
                yield AuditIssue(name, "gap", "is missing", remedy_for(name, run))
        else:
            yield from check_rows(name, rows, remedy_for(name, run))
    for path in sorted((run / "race" / "units").glob("*.json")):
        name = path.relative_to(run).as_posix()
        if name not in damaged and not _is_unit(path):
            yield AuditIssue(name, "schema", "is no unit of a race", remedy_for(name, run))
    if RACE_CONFIG in damaged:
        return
    try:
        config = load_race_config(run / RACE_CONFIG)
    except ValueError as error:
        yield AuditIssue(RACE_CONFIG, "config", " ".join(str(error).split()), remedy_for(RACE_CONFIG, run))
        return
    for text in _texts(config):
        yield from check_text(text, RACE_CONFIG, looked)


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
