"""Whether seeds are runs of their own: no two that begin with one initialisation, none that is another's copy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from leapverify.audit.finding import Finding
from leapverify.audit.tensors import correlation, samples
from leapverify.study.config import StudyConfig
from leapverify.train.state import snapshot_path, snapshot_steps

SHARED = 0.5
"""Correlation of first states from which two seeds count as sharing an initialisation; of independent ones: 0.2."""
SAME = 0.99999
"""Correlation at the last state from which two seeds count as one run."""


def check_lineage(run: Path, config: StudyConfig, seeds: Sequence[int], damaged: set[str]) -> Iterator[Finding]:
    """Compare seeds by pairs: by their first snapshots or, where those are gone, fingerprints of the untrained model.

    Args:
        run: the folder.
        config: with the settings of its switches; it says whether one initialisation was meant.
        seeds: that are there.
        damaged: files that say nothing.
    """
    meant = config.training.init == "shared" or config.model.pretrained is not None
    first, last = _Sample(run, seeds, damaged, end=0), _Sample(run, seeds, damaged, end=-1)
    for a, b in itertools.combinations(seeds, 2):
        where = f"seed-{b}"
        again = f"nothing that counts seeds may count both; delete {run / where} and {run / 'done.json'} and give the "
        again += "same study command again"
        end, start = last.correlation(a, b), first.correlation(a, b)
        if end is not None and end > SAME:
            yield Finding(
                where, "lineage", f"is the run of seed {a} once more ({last.what}: correlation {end:.6f})", again
            )
        elif start is not None and start > SHARED and not meant:
            text = f"shares its initialisation with seed {a} ({first.what}: correlation {start:.3f}, from {SHARED} on)"
            yield Finding(where, "lineage", text, again)


class _Sample:
    """One state of every seed, by its snapshot, or by its fingerprint where not every seed has the snapshot."""

    def __init__(self, run: Path, seeds: Sequence[int], damaged: set[str], end: int) -> None:
        folders = {seed: run / f"seed-{seed}" / "snapshots" for seed in seeds}
        whole = [
            {step for step in snapshot_steps(folder) if _is_whole(run, snapshot_path(folder, step), damaged)}
            for folder in folders.values()
        ]
        common = sorted(set.intersection(*whole)) if whole else []
        self._found: dict[int, dict[str, Tensor]] = {}
        if common:
            step = common[end]
            self.what = f"weights at step {step}"
            self._found = {seed: samples(snapshot_path(folder, step)) for seed, folder in folders.items()}
            return
        self.what = "fingerprints of the " + ("untrained model" if end == 0 else "last checkpoint")
        for seed in seeds:
            path = run / f"seed-{seed}" / "fingerprints.safetensors"
            if _is_whole(run, path, damaged):
                taken = samples(path)
                # Those of the same seed share a name over all seeds, so that only one state is compared.
                self._found[seed] = {"fingerprint": taken[sorted(taken)[end]]} if taken else {}

    def correlation(self, a: int, b: int) -> float | None:
        """Of two seeds; None where one has nothing to compare."""
        return correlation(self._found.get(a, {}), self._found.get(b, {}))


def _is_whole(run: Path, path: Path, damaged: set[str]) -> bool:
    return path.is_file() and path.relative_to(run).as_posix() not in damaged
