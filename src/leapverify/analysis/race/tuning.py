"""The grids that a race tuned on before it ran: what was tried, what was chosen, and whether the grid was too small."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leapverify.analysis.over_seeds import OverSeeds
from leapverify.analysis.race.arms import ARMS, OPTIMIZERS, TASKS, finals, place_of
from leapverify.analysis.race.paired import over_seeds
from leapverify.io.records import RaceRun

_NUMBERED = re.compile(r"(.*?)\s*=?\s*([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningRow:
    """One learning rate of one schedule, on the tuning seeds."""

    task: str
    optimizer: str
    schedule: str
    """The arm that was tuned."""
    lr: float
    setting: str
    final: OverSeeds
    """Final reported loss over the tuning seeds."""
    nonfinite: int
    """Tuning seeds whose loss is not finite; such a rate cannot be the lowest."""
    lowest: bool
    """The lowest mean of its schedule."""
    chosen: bool
    """What the race ran with; where it did not run this arm, the lowest."""
    edge: str
    """'lowest rate tried', 'highest decay tried' ...: the best may lie beyond the grid; empty for others."""


def tuning_grid(runs: Iterable[RaceRun]) -> list[TuningRow]:
    """Learning rate and setting of every tuned schedule against the mean final loss on the tuning seeds.

    Args:
        runs: the race's records, tuning and race. Tuning runs at the usual rate, which only set a target, are left out
            where there are others; a task that has no other rate is tuned at that one.

    Returns:
        One row per task, optimizer, schedule, rate and setting, rates ascending.
    """
    every = list(runs)
    tuned = {(run.task, run.optimizer) for run in every if run.stage == "tune" and run.rate != "usual"}
    every = [run for run in every if run.rate != "usual" or (run.task, run.optimizer) not in tuned]
    grids: dict[tuple[str, str, str], dict[tuple[float, str], dict[int, RaceRun]]] = {}
    for run in every:
        if run.stage == "tune":
            grid = grids.setdefault((run.task, run.optimizer, run.arm), {})
            grid.setdefault((run.lr, run.setting), {})[run.seed] = run
    raced = {(r.task, r.optimizer, r.arm): (r.lr, r.setting) for r in every if r.stage == "race"}
    ordered = sorted(
        grids, key=lambda key: [place_of(*pair) for pair in zip(key, (TASKS, OPTIMIZERS, ARMS), strict=True)]
    )
    return [row for key in ordered for row in _rows(key, grids[key], raced.get(key))]


def _rows(
    key: tuple[str, str, str], grid: dict[tuple[float, str], dict[int, RaceRun]], raced: tuple[float, str] | None
) -> list[TuningRow]:
    found, failed = {}, {}
    for point in sorted(grid, key=_by_size):
        losses = finals(grid[point])
        known = {seed: loss for seed, loss in losses.items() if loss is not None}
        found[point] = over_seeds(known, "not finite on any seed")
        failed[point] = len(losses) - len(known)
    means = {point: row.mean for point, row in found.items() if row.mean is not None and not failed[point]}
    lowest = min(means, key=lambda point: means[point]) if means else None
    chosen = _chosen(list(found), lowest, raced)
    if lowest and chosen in means and means[chosen] == means[lowest]:
        lowest = chosen
    return [
        TuningRow(
            task=key[0],
            optimizer=key[1],
            schedule=key[2],
            lr=point[0],
            setting=point[1],
            final=row,
            nonfinite=failed[point],
            lowest=point == lowest,
            chosen=point == chosen,
            edge=_edge(point, list(found)) if point == chosen else "",
        )
        for point, row in found.items()
    ]


def _by_size(point: tuple[float, str]) -> tuple[float, str, float]:
    match = _NUMBERED.fullmatch(point[1])
    return (point[0], match[1], float(match[2])) if match else (point[0], point[1], 0.0)


def _chosen(
    points: Sequence[tuple[float, str]], lowest: tuple[float, str] | None, raced: tuple[float, str] | None
) -> tuple[float, str] | None:
    if raced is None:
        return lowest
    same = [point for point in points if math.isclose(point[0], raced[0], rel_tol=1e-9)]
    exact = [point for point in same if point[1] == raced[1]]
    return exact[0] if exact else lowest if lowest in same else same[0] if same else None


def _edge(chosen: tuple[float, str], points: Sequence[tuple[float, str]]) -> str:
    rates = sorted({lr for lr, _ in points})
    said = [_end(chosen[0], rates, "rate")]
    numbered = {setting: match for _, setting in points if (match := _NUMBERED.fullmatch(setting))}
    if chosen[1] in numbered:
        name, value = numbered[chosen[1]].groups()
        tried = [float(match[2]) for match in numbered.values() if match[1] == name]
        said.append(_end(float(value), sorted(set(tried)), name.strip() or "setting"))
    return ", ".join(filter(None, said))


def _end(value: float, tried: Sequence[float], name: str) -> str:
    if len(tried) == 1:
        return f"only {name} tried"
    return f"lowest {name} tried" if value == tried[0] else f"highest {name} tried" if value == tried[-1] else ""
