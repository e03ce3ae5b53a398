"""Where the seconds of a study went: per part, as a share of all and beside training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leapverify.analysis.over_seeds import OverSeeds, fields_of, summarise
from leapverify.io.records import Checkpoint

PARTS = ("train", "observe", "evaluate", "sweep", "cascade", "snapshot", "lyapunov")
"""The parts that checkpoints record, as `<part>_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCost(OverSeeds):
    """The seconds of one part; mean, std and interval are over seeds of each seed's total in seconds."""

    part: str
    seconds: float
    """Sum over all seeds."""
    share: float | None
    """Of the seconds of all parts, all seeds together."""
    of_training: float | None
    """Times the seconds of `train`, all seeds together."""
    per_checkpoint_s: float | None

    @property
    def ran(self) -> bool:
        """Whether the part took any time at all."""
        return self.seconds > 0


def costs(checkpoints: Sequence[Checkpoint]) -> list[PartCost]:
    """Seconds and shares of every part of the study.

    share = seconds of the part / sum of the seconds of all parts;  of_training = seconds / seconds of `train`.

    Args:
        checkpoints: the records of all seeds; `n` of every row counts them.

    Returns:
        One row per part in the order of `PARTS`; None with a reason where there is nothing to divide by.
    """
    totals = {part: _totals(checkpoints, f"{part}_s") for part in PARTS}
    seconds = {part: sum(of_seed.values(), 0.0) for part, of_seed in totals.items()}
    everything, n = sum(seconds.values()), len(checkpoints)
    return [
        PartCost(
            **fields_of(summarise(totals[part], n=n, missing="no checkpoints")),
            part=part,
            seconds=own,
            share=_ratio(own, everything),
            of_training=_ratio(own, seconds["train"]),
            per_checkpoint_s=_ratio(own, n),
        )
        for part, own in seconds.items()
    ]


def _totals(checkpoints: Sequence[Checkpoint], name: str) -> dict[int, float]:
    of_seed = dict.fromkeys((row.seed for row in checkpoints), 0.0)
    for row in checkpoints:
        of_seed[row.seed] += getattr(row, name)
    return of_seed


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
