"""What workers call: plain data in, and the work's own types inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leapverify.bench.options import BenchOptions, configured
from leapverify.bench.seed import bench_seed
from leapverify.config.overrides import checked
from leapverify.config.study import StudyConfig
from leapverify.runs import Deadline
from leapverify.runs.progress import Watcher


def bench(
    watcher: Watcher,
    *,
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    run: str,
    seed: int,
    device: str,
    threads: int,
    deadline: Deadline | None = None,
) -> None:
    """`bench_seed`, with a configuration and options as JSON."""
    chosen = BenchOptions.from_dict(options)
    bench_seed(
        watcher,
        config=configured(checked(StudyConfig, config), chosen),
        options=chosen,
        run=Path(run),
        seed=seed,
        device=device,
        threads=threads,
        deadline=deadline,
    )
