"""The records of several seeds, side by side in time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from leapverify.io.records import Checkpoint


def by_seed(checkpoints: Sequence[Checkpoint]) -> dict[int, dict[int, Checkpoint]]:
    """seed -> step -> checkpoint, both ascending.

    Raises:
        ValueError: no checkpoints, or a step twice in a seed.
    """
    if not checkpoints:
        raise ValueError("there are no checkpoints to compare: run the study first")
    seeds: dict[int, dict[int, Checkpoint]] = defaultdict(dict)
    for row in sorted(checkpoints, key=lambda row: (row.seed, row.step)):
        if row.step in seeds[row.seed]:
            raise ValueError(f"seed {row.seed} has step {row.step} twice: give each checkpoint once")
        seeds[row.seed][row.step] = row
    return dict(seeds)


def common_steps(seeds: Mapping[int, Mapping[int, object]]) -> list[int]:
    """The steps that every seed has, ascending: a spread over seeds must not change its seeds from step to step."""
    return sorted(set.intersection(*(set(of_seed) for of_seed in seeds.values())))
