"""The findings: the variations of a preset run, judged claim by claim, and written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leapverify.claims.catalogue import judge_findings
from leapverify.claims.evidence import Evidence
from leapverify.claims.page import require_marks, verdict_lines, write_findings
from leapverify.claims.rule import ClaimResult
from leapverify.claims.variations import Variation, as_lines, base_config, chosen, run_variations, variations
from leapverify.config.resolved import Resolved
from leapverify.config.study import StudyConfig
from leapverify.errors import ConfigError, Damaged
from leapverify.io.storage import read_json
from leapverify.report.kit.section import hardware
from leapverify.runs import AUTOMATIC, Execution
from leapverify.runs.driver import rewriting
from leapverify.runs.progress import Watcher, ignore
from leapverify.study.preflight import finished, rehearse, require_free
from leapverify.study.run import deadline_of


@dataclass(frozen=True)
class Plan:
    """A set of variations, and which of them are to run."""

    every: Sequence[Variation]
    """The base study first."""
    wanted: Sequence[Variation]


@dataclass(frozen=True)
class JudgedClaims:
    """The findings and where they are written."""

    findings: Sequence[ClaimResult]
    path: Path
    """findings.md, beside findings.csv and findings.json."""
    failed: Mapping[str, str]
    """Variations that were to run and could not, and why."""

    @property
    def verdicts(self) -> list[str]:
        """One line a claim."""
        return verdict_lines(self.findings)


def plan(
    config: StudyConfig,
    settings: Mapping[str, Any],
    seeds: Sequence[int] | None = None,
    only: Sequence[str] | None = None,
    skip: Sequence[str] | None = None,
) -> Plan:
    """The set of a preset with its settings, and which of it to run.

    Raises:
        ConfigError: settings or names that cannot be used.
    """
    every = variations(base_config(config, settings, seeds))
    return Plan(every, chosen(every, only, skip))


def run_findings(
    planned: Plan,
    out: Path,
    *,
    device: str = "auto",
    watcher: Watcher = ignore,
    minutes: float | None = None,
    doc: Path | None = None,
    execution: Execution = AUTOMATIC,
) -> JudgedClaims:
    """Run the wanted variations below `out`, judge every claim by all that are there, and write the findings.

    Args:
        planned: what to run.
        out: each variation is a study's run folder in it; what is finished there is read, what was begun goes on.
        device: auto, cpu or cuda.
        watcher: is told how every seed gets on.
        minutes: stop after so many.
        doc: a Markdown file whose marked part is to hold the results, too.
        execution: what runs the seeds.

    Returns: the findings, also below `out`/tables.

    Raises:
        ValueError: the document has no marks, `out` holds something else, or a setting cannot be used.
        Paused: the minutes are over; the same call goes on.
    """
    if doc is not None:
        require_marks(doc)
    deadline = deadline_of(planned.every[0].config, minutes)
    _require_own(planned, out)
    todo = [each.config for each in planned.wanted if not finished(each.config, out / each.name)]
    if todo:
        rehearse(Resolved.of(todo[0]))
    options: dict[str, Any] = {"device": device, "watcher": watcher, "deadline": deadline, "execution": execution}
    evidence = run_variations(planned.wanted, planned.every, out, **options)
    found = judge_findings(evidence)
    about = list(_about(planned, evidence, out))
    with rewriting(out):
        path = write_findings(found, out / "tables", about=about, missing=evidence.missing, doc=doc)
    wanted = {each.name for each in planned.wanted}
    return JudgedClaims(found, path, {name: why for name, why in evidence.missing.items() if name in wanted})


def _require_own(planned: Plan, out: Path) -> None:
    """Refuse a folder that is no folder, a study's own, or one with variations of other settings.

    Raises:
        ConfigError: it is; nothing has been run or written.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file, and findings need a folder: name another --out")
    if (out / "config.yaml").is_file():
        raise ConfigError(f"{out} holds a single study: name another --out for the findings")
    for each in planned.every:
        # Those that are only read, too: a claim must not be judged by studies with different settings.
        if (out / each.name / "config.yaml").is_file():
            require_free(each.config, out / each.name)


def _about(planned: Plan, evidence: Evidence, out: Path) -> list[str]:
    """What was run, and on what: paragraphs."""
    base = planned.every[0].config
    known = evidence.studies.values()
    size = next((f"{study.parameters:,} parameters" for study in known if study.parameters), "parameters not counted")
    rows = sum(len(study.checkpoints) for study in known)
    said = (
        f"Preset `{base.preset}`, {size}, {base.training.steps} steps of {base.training.batch_size} × "
        f"{base.training.sequence_length} tokens, AdamW at {base.training.lr:g}, {base.training.schedule}, text "
        f"`{base.data.source.partition(':')[0]}`, seeds {', '.join(map(str, base.seeds))}; {rows:,} checkpoints and "
        f"{sum(len(study.predictions) for study in known):,} predictions in {len(evidence.studies)} studies. "
        f"{_machine(out, evidence)}"
    )
    tables = [said, "\n".join(as_lines([v for v in planned.every if v.name in evidence.studies]))]
    if evidence.missing:
        tables.append("Not there: " + "; ".join(f"{name} ({why})" for name, why in evidence.missing.items()) + ".")
    return tables


def _machine(out: Path, evidence: Evidence) -> str:
    """On what the base study ran."""
    name = next(iter(evidence.studies), "")
    try:
        environment = read_json(out / name / "environment.json")
    except Damaged:
        return "Hardware not recorded."
    versions = environment.get("versions", {})
    named = ", ".join(f"{part} {versions[part]}" for part in ("leapverify", "python", "torch") if part in versions)
    return f"{hardware(environment)}; {named}."
