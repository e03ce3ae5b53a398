"""Checks of one seed of a study: its rows against its configuration, the files that a resume needs, its clock."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from leapverify.audit.finding import AuditIssue, remedy_for
from leapverify.config.resolved import Resolved
from leapverify.errors import Damaged
from leapverify.io import records
from leapverify.io.records import (
    Benched,
    CascadeLink,
    Checkpoint,
    LossPoint,
    Prediction,
    RacePoint,
    RaceRun,
    SeedMeasure,
)
from leapverify.io.storage import read_json
from leapverify.study.folder import CASCADES, CHECKPOINTS, CURVE, PREDICTIONS, Rows, SeedFolder
from leapverify.train.schedule import Schedule

KEYS: Mapping[type, tuple[str, ...]] = {
    Checkpoint: ("seed", "step"),
    LossPoint: ("seed", "step"),
    Prediction: ("seed", "step", "predictor", "horizon"),
    Benched: ("seed", "step", "predictor", "horizon"),
    CascadeLink: ("seed", "step", "kind", "predictor", "depth", "horizon", "link"),
    SeedMeasure: ("measure", "step", "regime", "seed_a", "seed_b"),
    RaceRun: ("task", "optimizer", "rate", "arm", "seed", "stage", "lr", "setting"),
    RacePoint: ("task", "optimizer", "rate", "arm", "seed", "stage", "lr", "setting", "step"),
}
"""The fields that identify a row of each kind."""
SECONDS = ("_s", "seconds")


def key_of(row: Any) -> tuple[Any, ...]:
    """The fields that identify a row."""
    return tuple(getattr(row, name) for name in KEYS[type(row)])


def check_rows(name: str, rows: Sequence[Any], remedy: str) -> Iterator[AuditIssue]:
    """Duplicates, numbers that are not finite, and seconds below nothing.

    Args:
        name: the file.
        rows: its rows, all of one kind.
        remedy: what brings the file back.
    """
    twice = [key for key, count in Counter(map(key_of, rows)).items() if count > 1]
    if twice:
        told = ", ".join(f"{field} {value}" for field, value in zip(KEYS[type(rows[0])], twice[0], strict=True))
        yield AuditIssue(name, "duplicate", f"holds {len(twice)} rows more than once, the first of {told}", remedy)
    for row in rows[:1]:
        for field in dataclasses.fields(row):
            yield from _check_column(name, field.name, rows, remedy)


def _check_column(name: str, column: str, rows: Sequence[Any], remedy: str) -> Iterator[AuditIssue]:
    values = [(row, getattr(row, column)) for row in rows]
    wrong = [(row, value) for row, value in values if isinstance(value, float) and not math.isfinite(value)]
    if wrong:
        row, value = wrong[0]
        text = f"{len(wrong)} of {len(rows)} values of {column} are not finite, the first ({value}) at {_at(row)}"
        yield AuditIssue(name, "nonfinite", text, remedy)
    if column.endswith(SECONDS):
        early = [row for row, value in values if value is not None and value < 0]
        if early:
            text = f"{len(early)} values of {column} are below 0, the first at {_at(early[0])}: the clock was set back"
            yield AuditIssue(name, "clock", text, "the times of this run say nothing; everything else stands")


def _at(row: Any) -> str:
    return ", ".join(f"{name} {getattr(row, name)}" for name in ("seed", "step") if hasattr(row, name)) or "a row"


KINDS: dict[str, type] = {
    CHECKPOINTS: Checkpoint,
    CURVE: LossPoint,
    PREDICTIONS: Prediction,
    CASCADES: CascadeLink,
}
_STEP = re.compile(r"step-(\d{6,})(?:\.safetensors)?")
"""A file, or a folder of parts."""


class SeedAudit:
    """Looks at one seed.

    Args:
        run: the run folder.
        seed: whose.
        config: with the settings of its switches.
        damaged: files that have been named already; what they say is passed over.
    """

    def __init__(self, run: Path, seed: int, config: Resolved, damaged: set[str]) -> None:
        self._run, self._seed, self._config, self._damaged = run, seed, config, damaged
        self._folder = SeedFolder(run, seed)
        self._name = f"seed-{seed}"
        self._remedy = remedy_for(f"{self._name}/records", run)
        self.rows: Rows | None = None
        """What it recorded; None where that cannot be read."""

    def findings(self) -> Iterator[AuditIssue]:
        """Everything that is wrong with it."""
        found: dict[str, list[Any]] = {}
        for name, kind in KINDS.items():
            path = f"{self._name}/records/{name}"
            rows = read_rows(self._run, path, kind, self._damaged)
            if isinstance(rows, AuditIssue):
                yield rows
            elif rows is not None:
                yield from check_rows(path, rows, self._remedy)
                yield from self._foreign(path, rows)
                found[name] = rows
        if len(found) < len(KINDS):
            yield from self._gone(found)
            return
        self.rows = Rows(*found.values())
        yield from self._checkpoints(self.rows)
        yield from self._between(self.rows)
        yield from self._kept([row.step for row in self.rows.checkpoints])
        yield from self._end(self.rows)

    def _found(self, name: str, check: str, text: str, remedy: str = "", *, problem: bool = True) -> AuditIssue:
        return AuditIssue(f"{self._name}/{name}".rstrip("/"), check, text, remedy or self._remedy, problem)

    def _foreign(self, path: str, rows: list[Any]) -> Iterator[AuditIssue]:
        others = sorted({row.seed for row in rows} - {self._seed})
        if others:
            yield AuditIssue(path, "config", f"holds rows of seed {others[0]}", self._remedy)

    def _gone(self, found: dict[str, list[Any]]) -> Iterator[AuditIssue]:
        """Records that are not there and that nothing named."""
        lacking = [name for name in KINDS if name not in found and f"{self._name}/records/{name}" not in self._damaged]
        if not found and not self._folder.done:
            text = "has no checkpoint yet"
            yield self._found("", "done", text, "give the same study command again to go on", problem=False)
        else:
            for name in lacking:
                yield self._found(f"records/{name}", "gap", "is missing")

    def _checkpoints(self, rows: Rows) -> Iterator[AuditIssue]:
        t, path = self._config.training, f"records/{CHECKPOINTS}"
        steps, wanted = [row.step for row in rows.checkpoints], list(self._config.checkpoint_steps)
        if steps != wanted[: len(steps)]:
            wrong = next(found for found, right in zip([*steps, None], [*wanted, None], strict=False) if found != right)
            due = wanted[steps.index(wrong)] if wrong in steps and steps.index(wrong) < len(wanted) else wanted[-1]
            text = f"has a checkpoint at step {wrong} where {due} is due (every {self._config.observe.interval_steps})"
            yield self._found(path, "gap", text)
        schedule = Schedule(t.schedule, t.lr, t.warmup_steps, t.steps, t.lr_floor)
        for row in rows.checkpoints:
            lr, tokens = schedule(row.step), row.step * t.batch_size * t.sequence_length
            if abs(row.lr - lr) > 1e-9 * max(lr, t.lr) or row.tokens != tokens:
                text = f"says learning rate {row.lr:g} and {row.tokens:,} tokens at step {row.step} where config.yaml "
                yield self._found(path, "config", f"{text}gives {lr:g} and {tokens:,}")
                break
        for before, after in zip(rows.checkpoints, rows.checkpoints[1:], strict=False):
            if after.elapsed_s < before.elapsed_s:
                text = f"took {after.elapsed_s:.1f} s up to step {after.step} and {before.elapsed_s:.1f} s up to step "
                text += f"{before.step}: the clock was set back"
                remedy = "the times of this run say nothing; everything else stands"
                yield self._found(path, "clock", text, remedy)
                break

    def _between(self, rows: Rows) -> Iterator[AuditIssue]:
        """The loss curve and the sweep's rows of every checkpoint."""
        c = self._config
        last = max((row.step for row in rows.checkpoints), default=0)
        lacking = {step for step in c.curve_steps if step <= last} - {row.step for row in rows.curve}
        if lacking:
            text = f"lacks the loss of {len(lacking)} steps, the first of step {min(lacking)}"
            yield self._found(f"records/{CURVE}", "gap", text)
        swept = {row.step for row in rows.checkpoints if row.regime in c.sweep.regimes}
        yield from self._sweep(rows.predictions, swept)
        links = defaultdict(set)
        for row in rows.cascades:
            links[row.step, row.kind, row.predictor, row.depth, row.horizon].add(row.link)
        broken = [key for key, found in links.items() if found != set(range(1, len(found) + 1))]
        if broken:
            text = f"lacks links of {len(broken)} cascades, the first from step {broken[0][0]} by {broken[0][2]}"
            yield self._found(f"records/{CASCADES}", "gap", text)

    def _sweep(self, predictions: list[Prediction], swept: set[int]) -> Iterator[AuditIssue]:
        path = f"records/{PREDICTIONS}"
        tried = {(row.predictor, row.horizon) for row in predictions}
        at = defaultdict(set)
        for row in predictions:
            at[row.step].add((row.predictor, row.horizon))
        if strange := sorted(set(at) - swept):
            yield self._found(path, "gap", f"has rows at step {strange[0]}, where there was nothing to sweep")
        if lacking := [step for step in sorted(swept) if at[step] != tried]:
            text = f"lacks rows at {len(lacking)} of {len(swept)} swept checkpoints, the first at step {lacking[0]}"
            yield self._found(path, "gap", text)

    def _kept(self, steps: list[int]) -> Iterator[AuditIssue]:
        """The snapshots and states that the configuration keeps, and none of a later step."""
        c = self._config
        snapshots, states = c.retention.needed_to_resume(steps)
        every = set(steps[c.snapshots.every - 1 :: c.snapshots.every]) if c.snapshots.every else set()
        kept = {
            self._folder.snapshots: set(steps) if c.snapshots.weights == "all" else snapshots,
            self._folder.states: every if c.snapshots.optimizer == "all" else states,
        }
        for folder, wanted in kept.items():
            there = _steps_in(folder)
            place = folder.relative_to(self._folder.path).as_posix()
            named = {step for step in wanted if self._is_named(f"{place}/step-{step:06d}")}
            if lacking := sorted(wanted - there - named):
                text = f"lacks the file of step {lacking[0]}" + (f" and {len(lacking) - 1} more" if lacking[1:] else "")
                text += ", which a study that goes on needs" if not self._folder.done else ""
                yield self._found(place, "gap", text)
            if self._folder.done and (later := sorted(step for step in there if step > max(steps, default=0))):
                yield self._found(place, "manifest", f"holds step {later[0]}, after the end of the run", "delete it")

    def _is_named(self, begin: str) -> bool:
        return any(name.startswith(f"{self._name}/{begin}") for name in self._damaged)

    def _end(self, rows: Rows) -> Iterator[AuditIssue]:
        steps = self._config.training.steps
        last = max((row.step for row in rows.checkpoints), default=0)
        end = max(self._config.checkpoint_steps, default=0)
        if not self._folder.done:
            text = f"stands at step {last} of {steps}"
            yield self._found("", "done", text, "give the same study command again to go on", problem=False)
            return
        if f"{self._name}/done.json" in self._damaged:
            return
        try:
            said = read_json(self._folder.path / "done.json")
        except Damaged:
            return
        told = said.get("steps") if isinstance(said, dict) else None
        if last != end or told not in (None, steps):
            text = (
                f"says that it ended at step {told}, its checkpoints end at {last}, and config.yaml has {steps} steps"
            )
            yield self._found("done.json", "done", text, "delete it and give the same study command again")


def read_rows(run: Path, name: str, kind: type, damaged: set[str]) -> list[Any] | AuditIssue | None:
    """The rows of a file; a finding where they cannot be read, None where it is missing or named already."""
    path = run / name
    if name in damaged or name.replace(".parquet", ".json") in damaged or not path.is_file():
        return None
    try:
        return records.read(path, kind)
    except ValueError as error:
        text = " ".join(str(error).split()).removeprefix(f"{path} ").rpartition(";")[0]
        return AuditIssue(name, "schema", text, remedy_for(name, run))


def _steps_in(folder: Path) -> set[int]:
    """The steps of which a folder holds something, be it a file or a folder of parts."""
    found = (_STEP.fullmatch(path.name) for path in folder.glob("step-*"))
    return {int(match[1]) for match in found if match}
