"""What tests of audits do to run folders."""

from __future__ import annotations

from pathlib import Path

from leapverify.audit import AuditIssue, audit
from leapverify.config.study import StudyConfig
from leapverify.runs import execution
from leapverify.runs.progress import Watcher, ignore
from leapverify.study.folder import Study
from leapverify.study.run import run_study


def recorded(config: StudyConfig, out: Path, watcher: Watcher = ignore) -> Study:
    """Run a study, or go on with it, in this process."""
    return run_study(config, out, device="cpu", watcher=watcher, execution=execution("in-process"))


def put(path: Path, content: bytes) -> None:
    """Give a file other content, whatever else is linked to the old one."""
    path.unlink()
    path.write_bytes(content)


def flip(path: Path, at: int | None = None, bit: int = 1) -> None:
    """Turn one bit of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= bit
    put(path, bytes(content))


def problems(folder: Path) -> list[AuditIssue]:
    """What an audit calls wrong."""
    return [each for each in audit(folder) if each.problem]
