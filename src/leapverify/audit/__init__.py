"""What is wrong with a run folder, and what to do about it; nothing is ever written."""

from __future__ import annotations

from pathlib import Path

from leapverify.audit.files import check_files
from leapverify.audit.finding import AuditIssue, Tell, quiet
from leapverify.audit.heldout import Looked
from leapverify.audit.product import check_product, is_product
from leapverify.audit.study import check_race, check_study
from leapverify.errors import ConfigError
from leapverify.io.manifest import NAME, runs_below

__all__ = ["AuditIssue", "audit"]


def audit(path: Path | str, tell: Tell = quiet) -> list[AuditIssue]:
    """Look at everything in a run folder, and in the run folders below it.

    A study, a race, a bench in either, a ladder, findings, or a file that `nowcast train` wrote. Every file is read, a
    piece at a time; the text is cut again, where it is at hand, into a scratch folder of the system's.

    Args:
        path: the run folder, or the file.
        tell: is told what is looked at, bytes read so far, and bytes to read.

    Returns:
        What was found, problems and notes; nothing where all is well.

    Raises:
        ConfigError: it is no run folder.
    """
    run = Path(path)
    if is_product(run):
        return list(check_product(run))
    products = sorted(each for each in run.glob("*.safetensors") if is_product(each)) if run.is_dir() else []
    below = list(runs_below(run)) if run.is_dir() else []
    own = any((run / name).exists() for name in ("config.yaml", "race/config.yaml", NAME))
    if not (own or below or products):
        raise ConfigError(f"{run} is no run folder: name one that a study, a race or the findings have written")
    looked: Looked = set()
    found = [each for product in products for each in check_product(product)]
    if own:
        found += _own(run, tell, looked)
    for folder in below:
        name = folder.relative_to(run).as_posix()
        found += [each.below(name) for each in _own(folder, tell, looked)]
    return found


def _own(run: Path, tell: Tell, looked: Looked) -> list[AuditIssue]:
    """What lies in one run folder itself."""
    files = check_files(run, tell)
    found = files.findings
    if (run / "config.yaml").exists():
        found += check_study(run, files.damaged, tell, looked)
    if (run / "race").is_dir():
        found += check_race(run, files.damaged, looked)
    return found
