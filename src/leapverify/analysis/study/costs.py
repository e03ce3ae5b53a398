"""Where the seconds of a study went: per part, as a share of all and beside training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from leapverify.analysis.over_seeds import Bootstrap, OverSeeds, fields_of, summarise
from leapverify.io.records import Checkpoint

PARTS = ("train", "observe", "evaluate", "sweep", "cascade", "snapshot", "lyapunov")
"""The parts that checkpoints record, as `<part>_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost(OverSeeds):
    """The seconds of one part; mean, std and interval are over seeds of each seed's total in seconds."""

    part: str
    seconds: float
    """Sum over all seeds."""
    share: float | None
    """Of the seconds of all parts, all seeds together."""
    of_training: float | None
    """Times the seconds of `train`, all seeds together."""
    per_checkpoint_s: float | None
    ran: bool
    """Whether the part took any time at all."""


def costs(checkpoints: Sequence[Checkpoint], *, bootstrap: Bootstrap | None = None) -> list[Cost]:
    """Seconds and shares of every part of the study.

    share = seconds of the part / sum of the seconds of all parts;  of_training = seconds / seconds of `train`.

    Args:
        checkpoints: the records of all seeds; `n` of every row counts them.
        bootstrap: draws, level and seed of the interval over seeds.

    Returns:
        One row per part in the order of `PARTS`; None with a reason where there is nothing to divide by.
    """
    totals: dict[str, dict[int, float]] = {part: defaultdict(float) for part in PARTS}
    for row in checkpoints:
        for part in PARTS:
            totals[part][row.seed] += getattr(row, f"{part}_s")
    seconds = {part: sum(of_seed.values(), 0.0) for part, of_seed in totals.items()}
    everything = sum(seconds.values())
    return [
        Cost(
            **fields_of(summarise(totals[part], n=len(checkpoints), missing="no checkpoints", bootstrap=bootstrap)),
            part=part,
            seconds=seconds[part],
            share=_ratio(seconds[part], everything),
            of_training=_ratio(seconds[part], seconds["train"]),
            per_checkpoint_s=_ratio(seconds[part], len(checkpoints)),
            ran=seconds[part] > 0,
        )
        for part in PARTS
    ]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
