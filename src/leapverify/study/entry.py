"""What workers call: plain data in, and the work's own types inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leapverify.config.overrides import checked
from leapverify.config.resolved import Resolved
from leapverify.config.study import StudyConfig
from leapverify.observe import Thresholds
from leapverify.runs import Deadline
from leapverify.runs.progress import Watcher


def record(
    watcher: Watcher,
    *,
    config: Mapping[str, Any],
    thresholds: Mapping[str, Any],
    run: str,
    seed: int,
    device: str,
    threads: int,
    overlap: bool,
    deadline: Deadline | None = None,
) -> None:
    """`record_seed`, with a configuration and cut points as JSON."""
    from leapverify.study.record import record_seed

    record_seed(
        watcher,
        config=Resolved.of(checked(StudyConfig, config)),
        thresholds=Thresholds.from_dict(thresholds),
        seed=seed,
        run=Path(run),
        device=device,
        threads=threads,
        deadline=deadline,
        overlap=overlap,
    )


def resweep(watcher: Watcher, *, config: Mapping[str, Any], run: str, seed: int, device: str, threads: int) -> None:
    """`sweep_seed`, with a configuration as JSON."""
    from leapverify.study.resweep import sweep_seed

    found = Resolved.of(checked(StudyConfig, config))
    sweep_seed(watcher, config=found, run=Path(run), seed=seed, device=device, threads=threads)
