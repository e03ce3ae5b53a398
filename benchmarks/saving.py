"""What saving costs training on a slow disk: seconds of a run with and without overlap, and those it was blocked.

The disk is slowed where it is waited for: every fsync takes as long as its file's bytes take at `--mb-per-s`. The
same micro GPT-2 is trained twice in turn; the numbers of both are compared, and must be the same.

    python benchmarks/saving.py [--mb-per-s 20] [--steps 60] [--hidden 128] [--repeats 3]
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch

from leapverify.config.overrides import with_settings
from leapverify.config.presets import preset
from leapverify.config.resolved import Resolved
from leapverify.config.study import StudyConfig
from leapverify.observe import Thresholds
from leapverify.runs.progress import ignore
from leapverify.study.checkpointing import Saver
from leapverify.study.folder import Rows, SeedFolder
from leapverify.study.record import record_seed


@contextmanager
def slowed(mb_per_s: float) -> Iterator[None]:
    """A disk that takes so many bytes a second."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        time.sleep(os.fstat(descriptor).st_size / (mb_per_s * 1e6))
        real(descriptor)

    with patch("os.fsync", fsync):
        yield


@contextmanager
def blocked() -> Iterator[list[float]]:
    """The seconds that training waits in each call of the saver."""
    spent: list[float] = []

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object, **named: object) -> object:
            start = time.perf_counter()
            try:
                return real(*given, **named)
            finally:
                spent.append(time.perf_counter() - start)

        return call

    with patch.object(Saver, "save", counted(Saver.save)), patch.object(Saver, "commit", counted(Saver.commit)):
        yield spent


def run(config: StudyConfig, folder: Path, overlap: bool) -> tuple[float, float, Rows]:
    with blocked() as waits:
        start = time.perf_counter()
        record_seed(
            ignore,
            config=Resolved.of(config),
            thresholds=Thresholds.fixed(0.9, 0.95),
            seed=0,
            run=folder,
            device="cpu",
            threads=torch.get_num_threads(),
            overlap=overlap,
        )
        return time.perf_counter() - start, sum(waits), SeedFolder(folder, 0).read_rows()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb-per-s", type=float, default=20.0)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    settings = {"training.steps": chosen.steps, "observe.interval_steps": 10, "model.hidden": chosen.hidden}
    settings |= {"sweep.predictors": ["hold"], "sweep.horizons": [5], "cascade.kinds": [], "training.warmup_steps": 3}
    config = with_settings(preset("tiny"), settings)
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    losses = set()
    with tempfile.TemporaryDirectory() as folder, slowed(chosen.mb_per_s):
        for number in range(chosen.repeats):
            for overlap in (False, True):
                seconds, waited, rows = run(config, Path(folder, f"{number}-{overlap}"), overlap)
                found[overlap].append((seconds, waited))
                losses.add(tuple(row.heldout_loss for row in rows.checkpoints))
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; n={chosen.repeats}")
    print(f"a disk of {chosen.mb_per_s:g} MB/s, {chosen.steps} steps, a checkpoint every 10; medians, seconds")
    print(f"{'':16}{'run':>8}{'blocked':>10}")
    whole = {}
    for overlap, name in ((False, "without overlap"), (True, "with overlap")):
        whole[overlap] = [median(each) for each in zip(*found[overlap], strict=True)]
        print(f"{name:16}{whole[overlap][0]:8.2f}{whole[overlap][1]:10.2f}")
    print(f"{'ratio':16}{whole[True][0] / whole[False][0]:8.2f}{whole[True][1] / whole[False][1]:10.2f}")
    print("the same numbers" if len(losses) == 1 else "THE NUMBERS DIFFER")


if __name__ == "__main__":
    main()
